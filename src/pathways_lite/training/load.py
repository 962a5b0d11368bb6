"""Load a trained model from a checkpoint: to evaluate it, to generate from it, or to start another stage."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from pathways_lite.checkpoints import (
    CheckpointManager,
    Manifest,
    read_companions,
    read_manifest,
    restore,
)
from pathways_lite.console import print_line
from pathways_lite.data.held_out_text import HeldOutSource
from pathways_lite.data.mixture import MixedOrder
from pathways_lite.data.order import DataCursor
from pathways_lite.data.store import Store, find_store, open_store, require_compatible
from pathways_lite.data.tokenizers import HF_FILE, SENTENCEPIECE_FILE, Tokenizer
from pathways_lite.distributed import coordination
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.evaluation.held_out import StageEvaluator
from pathways_lite.ledger import Ledger
from pathways_lite.recipe import Mesh, Recipe, Stage
from pathways_lite.run_directory import StageDirectory
from pathways_lite.training.average import Average
from pathways_lite.training.companions import carried_frame, carried_held_out, carried_tokenizer, companion_files
from pathways_lite.training.components import Components
from pathways_lite.training.find_checkpoints import newest_checkpoints
from pathways_lite.training.stage import StageSpec, changes_of_order, stage_timeline

IMPORTED_SEQ_LEN = 2048
"""The longest window in which an imported model is evaluated unless a length is given.

Its config.json says how far its positions go, often 131,072, for which attention would take most memory.
"""


@dataclass(frozen=True)
class TrainedModel:
    """A valid checkpoint and the stage that made it. Parameters are read when asked for.

    With `average` they are the moving average of those that were trained.
    """

    path: Path
    manifest: Manifest
    spec: StageSpec
    average: bool = False

    def __repr__(self) -> str:
        """Return one line, as a notebook shows it; the manifest alone would take pages."""
        average = ", average of its parameters" if self.average else ""
        return f"TrainedModel({str(self.path)!r}: stage {self.stage.name!r}, step {self.manifest.step:,}{average})"

    @property
    def stage(self) -> Stage:
        return self.spec.stage

    @property
    def cost(self) -> Ledger:
        """The cost of everything that led to the checkpoint."""
        return Ledger.from_json(self.manifest.meta["ledger"]["total"])

    @functools.cached_property
    def components(self) -> Components:
        """The stage on all devices of this program, whatever it was trained on."""
        return Components(self.spec)

    def sibling(self, path: Path) -> TrainedModel:
        """Return the checkpoint at `path`; of the same stage, with the same components, which are not built again."""
        other = replace(_model_at(path), average=self.average)
        if other.spec.identity == self.spec.identity:
            vars(other)["components"] = self.components
        return other.of_average() if self.average else other

    def of_average(self) -> TrainedModel:
        """Return the same checkpoint as the average of its parameters. Raises UserError where it has none."""
        if self.stage.ema is None or "average.count" not in self.manifest.arrays:
            raise UserError(
                f"{self.path} holds no moving average of its parameters; a stage has one where its recipe says "
                f"ema=EMA() (stages.{self.stage.name}.ema)"
            )
        return replace(self, average=True)

    # ---- what the checkpoint carries ----

    @functools.cached_property
    def companions(self) -> dict[str, bytes]:
        """The files that the checkpoint carries beside its arrays. Raises DamagedError where they are damaged."""
        return read_companions(self.path, self.manifest)

    @property
    def is_imported(self) -> bool:
        """Whether the model was trained elsewhere, and not on a corpus since; grown and merged ones too."""
        return not self.stage.data.corpus

    def tokenizer(self, corpus: str | None = None) -> Tokenizer:
        """Return the checkpoint's tokenizer: the one that it carries, or else that of its corpus, or of `corpus`.

        Raises UserError where there is none.
        """
        if corpus is None and self._carried_tokenizer is not None:
            return self._carried_tokenizer
        if corpus is None and self.is_imported:
            raise UserError(
                f"{self.path} was imported without a tokenizer; name a corpus of its tokenizer with --corpus, or "
                "import it again with --tokenizer PLACE"
            )
        return self.open_corpus(corpus).tokenizer()

    def frame(self, corpus: str | None = None) -> DocumentFrame:
        """Return the tokens around the documents that the model was trained on, or of those of `corpus`.

        Raises UserError where neither the checkpoint nor a corpus says them.
        """
        if corpus is None and self._carried_tokenizer is not None:
            return carried_frame(self.companions, self._carried_tokenizer, str(self.path))
        return self.open_corpus(corpus).frame

    def prompt_tokens(self, tokenizer: Tokenizer) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
        """Return the ids that open a prompt, and those of which each ends an answer, for `evaluation.generate`.

        An imported model's prompts are opened by what its tokenizer puts before a text, which may be nothing; None: as
        the documents that the model was trained on.
        """
        return tokenizer.control.prefix if self.is_imported else None, tokenizer.control.eos

    @functools.cached_property
    def _carried_tokenizer(self) -> Tokenizer | None:
        return carried_tokenizer(self.companions, str(self.path))

    def held_out_documents(self, corpus: str | None = None, tokens: int | None = None) -> HeldOutSource:
        """Return where an evaluation on `tokens` held-out tokens per domain reads its documents.

        That is the text that the checkpoint carries, where it is enough, or else its corpus, or `corpus`. Raises
        UserError where there is none.
        """
        if corpus is None and self._carried_tokenizer is not None:
            carried = carried_held_out(self.companions, self._carried_tokenizer, str(self.path))
            if carried is not None and carried.serves(tokens or self.stage.evaluation.tokens):
                return carried
        return self.open_corpus(corpus)

    def files_to_carry(self) -> dict[str, bytes]:
        """Return the companion files of a checkpoint made from this one: its own, or what its corpus has."""
        if self.companions:
            return self.companions
        try:
            return companion_files(self.open_corpus(), self.stage.evaluation.tokens)
        except UserError:
            return {}

    @property
    def evaluated_seq_len(self) -> int:
        """The tokens of a window of an evaluation, by default: the stage's, of an import at most `IMPORTED_SEQ_LEN`."""
        return min(self.stage.data.seq_len, IMPORTED_SEQ_LEN) if self.is_imported else self.stage.data.seq_len

    def evaluator(
        self,
        corpus: str | None = None,
        tokens: int | None = None,
        overlap: int | None = None,
        *,
        seq_len: int | None = None,
        documents: HeldOutSource | None = None,
    ) -> StageEvaluator:
        """Return the evaluation on `corpus` with `tokens` held-out tokens per domain and an `overlap` of windows.

        By default as the stage was evaluated. `seq_len`: of a window; None: `evaluated_seq_len`. `documents`: instead
        of those of a corpus. Raises UserError for a corpus of another tokenizer, and for too long an overlap.
        """
        length = seq_len or self.evaluated_seq_len
        if overlap is not None and overlap >= length:
            given = "that you gave" if seq_len else f"that {self.path} was trained with"
            raise UserError(
                f"an overlap of {overlap} tokens leaves none to score in windows of {length}, the sequence length "
                f"{given}; use at most {length - 1}"
            )
        source = documents or self.held_out_documents(corpus, tokens)
        return self.components.evaluator_on(source, tokens, overlap, length)

    def open_corpus(self, corpus: str | None = None) -> Store:
        """Open `corpus`, which may be the stage's own at another place, or another one of its tokenizer.

        By default it is the stage's own. Raises UserError for a corpus of another tokenizer.
        """
        own = self.stage.data
        if not own.corpus and corpus is None:
            raise UserError(
                f"{self.path} was imported and has no corpus; name one of its tokenizer with --corpus (built by: "
                f"pathways-lite data build CORPUS TEXTS --tokenizer {self.path})"
            )
        if corpus is None:
            try:
                return open_store(find_store(own.corpus, self.manifest.meta.get("provenance", {}).get("directory")))
            except UserError as error:
                raise UserError(
                    f"{error}\nThat is the place in the recipe of {self.path} (stages.{self.stage.name}.data.corpus); "
                    "if the corpus is elsewhere now, name it with --corpus"
                ) from error
        store = open_store(corpus)
        if store.fingerprint == own.fingerprint:
            return store
        if self.is_imported:
            require_compatible(store, own, self.stage.model.vocab_size)
            if self._carried_tokenizer is None or self._has_the_ids_of(store):
                return store
        # Checkpoints of version 0.1 do not say which tokenizer their corpus had.
        trained_with = self.manifest.meta.get("tokenizer") or self.tokenizer().fingerprint
        given = store.manifest.tokenizer
        if given != trained_with:
            raise UserError(
                f"{corpus} was tokenized by {given[:12]}, the model was trained with {trained_with[:12]}; "
                f"build the corpus with --tokenizer {self.path if self.companions else own.corpus}"
            )
        return store

    def _has_the_ids_of(self, store: Store) -> bool:
        """Whether a corpus has the tokenizer of the checkpoint, perhaps with another token between documents."""
        own, given = (dict(tokenizer.files()) for tokenizer in (self.tokenizer(), store.tokenizer()))
        return any(name in own and own[name] == given.get(name) for name in (HF_FILE, SENTENCEPIECE_FILE))

    def require_recorded(self, digest: str | None, stage: str, path: str, otherwise: str) -> None:
        """Raise UserError where `digest` is recorded for `stage` and `path` now holds another checkpoint.

        `otherwise` says how to use it all the same.
        """
        if digest not in (None, self.manifest.digest):
            raise UserError(
                f"stage {stage!r} was made with the checkpoint {digest}, but {path} now holds "
                f"{self.manifest.digest}; name the right checkpoint, or {otherwise} to use this one"
            )

    def cursor_for(self, stage: Stage) -> DataCursor:
        """Return where the data of a stage that starts from this checkpoint continues: after what led to it.

        That is the beginning where the two stages read different examples, or only one of them has a mixture.
        """
        read, reads = self.stage.data, stage.data
        if changes_of_order(read, reads):
            return DataCursor()
        cursor = DataCursor.from_json(self.manifest.meta["cursor"])
        end = cursor.end_example(self.spec.timeline, self.manifest.step)
        if read.mixture is None:
            return DataCursor(first_sequence=end)
        order = self.spec.on_corpus(reads.corpus).stream(cursor).order
        assert isinstance(order, MixedOrder)
        return DataCursor(consumed=tuple(order.counts(end).tolist()))

    def params(self, start_of: Components | None = None) -> Any:
        """Read the parameters to evaluate or to start from (see `Components.evaluated_params`), on all devices.

        With the stage `start_of`: on its mesh; UserError with the difference where they are not those of its model.
        """
        return self.params_like((start_of or self.components).abstract_state.params)

    def trained_params_like(self, abstract: Any) -> Any:
        """Read the parameters that were being trained, shaped and placed as `abstract`.

        Raises UserError where the model does not compute with these yet, but with what masks of growth leave of them.
        """
        assert not self.average
        self.require_full_growth("use optimizer='reset'")
        return restore(self.path, abstract, "params").arrays

    def require_full_growth(self, instead: str) -> None:
        """Raise UserError where masks of growth still hide a part of the parameters; `instead` says what to do."""
        if (step := self.manifest.step) < (end := self.spec.growth_end):
            raise UserError(
                f"{self.path}: growth is under way at step {step}, and its masks, which hide a part of the parameters "
                f"until step {end}, would be lost; {instead}"
            )

    def require_stored_params(self, instead: str) -> None:
        """Raise UserError where the model computes with other parameters than the arrays that are stored.

        These are schedule-free's average and parameters under masks of growth; `instead` says what to do.
        """
        if self.stage.optimizer.averages_params:
            raise UserError(f"{self.path} was trained schedule-free, and its average is not stored; {instead}")
        self.require_full_growth(f"{instead}, or take a later checkpoint")

    def params_like(self, abstract: Any) -> Any:
        """Read the parameters to evaluate, shaped and placed as `abstract`."""
        trained, opt_state = restore(self.path, abstract, "params").arrays, ()
        if self.average:
            if self.stage.pruning is not None:  # for its masks
                opt_state = restore(self.path, self.components.abstract_state.opt_state, "opt_state").arrays
            average = self.average_like(abstract)
            return self.components.averaged_params(average, opt_state, trained, self.manifest.step)
        if self.stage.optimizer.averages_params:  # otherwise the optimizer's state is not read
            opt_state = restore(self.path, self.components.abstract_state.opt_state, "opt_state").arrays
        return self.components.evaluated_params(opt_state, trained, self.manifest.step)

    def average_like(self, abstract: Any) -> Average:
        """Read the moving average of parameters, which are shaped and placed as `abstract`."""
        count = jax.ShapeDtypeStruct((), jnp.int32)
        target = Average(count, self.spec.trainable.abstract_rows(abstract))
        return Average(*restore(self.path, target, "average").arrays)


def print_warning(line: str) -> None:
    """Print a warning on standard error."""
    print_line(f"warning: {line}")


def load_model(
    path: str | Path,
    *,
    examined: bool = True,
    report: Callable[[str], None] | None = print_warning,
    average: bool = False,
) -> TrainedModel:
    """Load the newest valid checkpoint at or below `path` (a checkpoint, stage or run directory).

    `report` is told which newer checkpoints are passed over, and why; with None, UserError is raised instead. With
    `examined=False` it is the newest one; the caller verifies its content on reading. With `average` its parameters are
    the moving average; UserError where the stage has none.
    Raises UserError where there is none, or where it was not written by `pathways-lite train`.
    """
    model = _model_at(newest_checkpoints(path, 1, examined=examined, report=report)[0])
    return model.of_average() if average else model


def load_final(checkpoints: Path, stage: Stage) -> TrainedModel:
    """Load the last step of a finished stage; its content is verified on reading. Raises UserError without it.

    A stage that starts from an older checkpoint would have the same identity, and other parameters.
    """
    last_step = coordination.run_on_primary(lambda: final_step(StageDirectory(checkpoints.parent), stage))
    path = CheckpointManager(checkpoints).path(last_step)
    if not coordination.run_on_primary(path.is_dir):
        raise UserError(
            f"stage {stage.name!r} ends at step {last_step:,}, but {path} is not there; "
            f"remove {checkpoints.parent / 'summary.json'}, and the same command trains the missing steps again"
        )
    return _model_at(path)


def final_step(directory: StageDirectory, stage: Stage) -> int:
    """Return the step at which a finished stage ended: that of its budget, unless it stopped early."""
    summary = directory.summary if stage.early_stopping is not None else None
    return stage_timeline(stage).total_steps if summary is None else int(summary["step"])


def _model_at(path: Path) -> TrainedModel:
    manifest = read_manifest(path)
    try:
        recipe = Recipe.model_validate(manifest.meta["recipe"])
        lineage = manifest.meta["lineage"]
        index = [stage.name for stage in recipe.stages].index(lineage["stage"])
        lineage["identity"], lineage["parent"]
        DataCursor.from_json(manifest.meta["cursor"])
        for account in ("stage", "total"):
            Ledger.from_json(manifest.meta["ledger"][account])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path} does not say which recipe made it: {error!r}") from error
    # The model is used on other devices than it was trained on.
    stages = [stage.model_copy(update={"mesh": Mesh()}) for stage in recipe.stages]
    return TrainedModel(path, manifest, StageSpec(recipe.model_copy(update={"stages": tuple(stages)}), index))
