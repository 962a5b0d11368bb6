"""A trained model out of a checkpoint: for evaluation, for generation, and as the start of another stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathways_lite.checkpoints import Manifest, checkpoint_paths, read_manifest, restore, verify_checkpoint
from pathways_lite.data.mixture import MixedOrder
from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import Batches
from pathways_lite.data.store import open_store
from pathways_lite.distributed import coordination
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.recipe import Mesh, Recipe, ScheduleFree, Stage
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.setup import Setup, stage_timeline


@dataclass(frozen=True)
class TrainedModel:
    """A valid checkpoint and the stage that made it; parameters are read when asked for."""

    path: Path
    manifest: Manifest
    setup: Setup

    @property
    def stage(self) -> Stage:
        return self.setup.stage

    @property
    def cost(self) -> Ledger:
        """Of everything that led to the checkpoint."""
        return Ledger.from_json(self.manifest.meta["ledger"]["total"])

    def on_corpus(self, corpus: str | None, tokens: int | None = None) -> Setup:
        """`Setup.on_corpus`, by default its own; UserError for a corpus of another tokenizer."""
        own = self.stage.data.corpus
        setup = self.setup.on_corpus(corpus or own, tokens)
        theirs, trained_with = setup.store.manifest.tokenizer, open_store(own).manifest.tokenizer
        if theirs != trained_with:
            raise UserError(
                f"{corpus} was tokenised by {theirs[:12]}, the model was trained with {trained_with[:12]}; "
                f"build the corpus with --tokenizer {own}"
            )
        return setup

    def require_recorded(self, digest: str | None, stage: str, path: str, otherwise: str) -> None:
        """Raise UserError where `stage` was made with another one than `path` has now; `otherwise`: how to use it."""
        if digest not in (None, self.manifest.digest):
            raise UserError(
                f"stage {stage!r} was made with the checkpoint {digest}, but {path} now holds "
                f"{self.manifest.digest}; name the right checkpoint, or {otherwise} to use this one"
            )

    def cursor_for(self, stage: Stage) -> DataCursor:
        """Where the data of a stage that begins with this checkpoint goes on: behind what led to it.

        At the beginning where the two read other examples, and where one has a mixture and the other has none.
        """
        read, reads = self.stage.data, stage.data
        same_windows = lambda data: (data.fingerprint, data.seq_len, data.shuffle_seed, data.round)  # noqa: E731
        if same_windows(read) != same_windows(reads) or (read.mixture is None) != (reads.mixture is None):
            return DataCursor()
        timeline, cursor = stage_timeline(self.stage), DataCursor.from_json(self.manifest.meta["cursor"])
        end = cursor.end(timeline, self.manifest.step)
        if read.mixture is None:
            return DataCursor(first_sequence=end)
        order = Batches(
            open_store(reads.corpus), read, timeline, self.stage.objective, cursor.skips, cursor.first_sequence,
            consumed=cursor.consumed,
        ).order  # fmt: skip
        assert isinstance(order, MixedOrder)
        return DataCursor(consumed=tuple(order.counts(end).tolist()))

    def params(self, start_of: Setup | None = None) -> Any:
        """The parameters to evaluate or to start from (see `Setup.evaluated_params`), spread over all devices.

        With the stage `start_of`, on its mesh, and exactly its model's: otherwise UserError with the difference.
        """
        return self.params_like((start_of or self.setup).abstract_state.params)

    def trained_params_like(self, abstract: Any) -> Any:
        """The parameters that were being trained, shaped and placed as `abstract`.

        Raises UserError where the model does not compute with these yet, but with what masks of growth leave of them.
        """
        if self.setup.masks is not None and self.manifest.step < self.setup.timeline.total_steps:
            raise UserError(f"{self.path}: growth is under way, and its masks stay behind; use optimizer='reset'")
        return restore(self.path, abstract, "params").arrays

    def params_like(self, abstract: Any) -> Any:
        """As `params`, shaped and placed as `abstract`."""
        trained, opt_state = restore(self.path, abstract, "params").arrays, ()
        if isinstance(self.stage.optimizer, ScheduleFree):  # otherwise it need not be read, larger than the parameters
            opt_state = restore(self.path, self.setup.abstract_state.opt_state, "opt_state").arrays
        return self.setup.evaluated_params(opt_state, trained, self.manifest.step)


def load_model(path: str | Path, *, examined: bool = True) -> TrainedModel:
    """The newest valid checkpoint at or below `path` (a checkpoint, stage or run directory).

    With `examined=False` the newest one, whose content the caller verifies as it reads it.
    Raises UserError where there is none, or where it was not written by `pathways-lite train`.
    """
    path = find_checkpoint(path, examined=examined)
    manifest = read_manifest(path)
    try:
        recipe = Recipe.model_validate(manifest.meta["recipe"])
        index = [stage.name for stage in recipe.stages].index(manifest.meta["lineage"]["stage"])
    except (KeyError, ValueError) as error:
        raise UserError(f"checkpoint {path} does not say which recipe made it: {error}") from error
    # Whoever uses the model has other devices than those that trained it.
    stages = [stage.model_copy(update={"mesh": Mesh()}) for stage in recipe.stages]
    return TrainedModel(path, manifest, Setup(recipe.model_copy(update={"stages": tuple(stages)}), index))


def find_checkpoint(path: str | Path, *, examined: bool = True) -> Path:
    """The newest valid checkpoint at or below `path`; of a run, that of its last stage that has any.

    All processes must ask; each reads a part of what there is. Raises UserError where there is none.
    """
    return newest_checkpoints(path, 1, examined=examined)[0]


def newest_checkpoints(path: str | Path, count: int, *, examined: bool = True) -> list[Path]:
    """As `find_checkpoint`, the newest `count` of one stage, the newest first; UserError where there are fewer."""
    if not str(path):
        raise UserError("a checkpoint is needed: name a checkpoint, stage or run directory")
    found: list[Path] = []
    problems = []
    for candidate in map(Path, coordination.run_on_primary(lambda: _candidates(Path(path)))):
        if found and candidate.parent != found[0].parent:
            break
        if not examined or (finding := verify_checkpoint(candidate)).ok:
            found.append(candidate)
            if len(found) == count:
                return found
        else:
            problems.append(str(finding))
    how_many = f"no checkpoint in {path} is whole" if not found else f"{path} has {len(found)} checkpoints, not {count}"
    raise UserError("\n".join([f"{how_many}:" if problems else how_many, *problems]))


def _candidates(path: Path) -> list[str]:
    """All checkpoints at or below `path`, the newest first. Raises UserError where there is none."""
    run = RunDirectory(path)
    places = [path]
    if run.recipe_path.is_file():
        stages = [run.stage(stage.name).checkpoints for stage in run.recipe().stages]
        places = [stage for stage in reversed(stages) if stage.is_dir()] or places
    return [str(candidate) for place in places for candidate in reversed(checkpoint_paths(place))]
