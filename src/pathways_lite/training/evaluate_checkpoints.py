"""Evaluate the checkpoints that a run keeps, one after another, on the same held-out text.

The text is that on which the last of them is evaluated. Models of one shape share one compiled program.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

from pathways_lite.data.held_out_text import HeldOutSource
from pathways_lite.errors import UserError
from pathways_lite.evaluation.bits import HeldOutLoss
from pathways_lite.evaluation.held_out import StageEvaluator
from pathways_lite.paths import local_path
from pathways_lite.training.find_checkpoints import checkpoints_below
from pathways_lite.training.load import TrainedModel, load_model


def kept_checkpoints(path: str | Path, every: int = 1) -> list[Path]:
    """List the checkpoints of a run, stage or checkpoint directory, the oldest first.

    With `every` only each that many-th of a stage, counted from its last. Raises UserError where there is none.
    """
    by_stage: dict[Path, list[Path]] = {}
    for checkpoint in map(Path, checkpoints_below(local_path(path))):
        by_stage.setdefault(checkpoint.parent, []).append(checkpoint)
    return [checkpoint for newest_first in by_stage.values() for checkpoint in newest_first[::every]][::-1]


class CheckpointEvaluator:
    """Evaluates checkpoints of one run on the text of its last one.

    Args:
        path: a run, stage or checkpoint directory.
        corpus, tokens, overlap: as in `TrainedModel.evaluator`; by default as the last checkpoint is evaluated.
        average: evaluate the moving averages of parameters.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        corpus: str | None = None,
        tokens: int | None = None,
        overlap: int | None = None,
        average: bool = False,
    ) -> None:
        """Find the text. Raises UserError where there is none, or no checkpoint is whole."""
        self._model: TrainedModel = load_model(path, average=average)
        budget = self._model.stage.evaluation
        self._tokens, self.overlap = tokens or budget.tokens, budget.overlap if overlap is None else overlap
        self._source: HeldOutSource = self._model.held_out_documents(corpus, self._tokens)
        self._tokenizer = self._model.manifest.meta.get("tokenizer")
        self._evaluator: StageEvaluator = self._model.evaluator(corpus, self._tokens, self.overlap)
        if not self._evaluator.documents:
            raise UserError(f"{self._source.address} has no held-out documents; name another corpus with --corpus")

    @property
    def tokens(self) -> int:
        """Predictions per checkpoint."""
        return sum(document.predictions for documents in self._evaluator.documents.values() for document in documents)

    @property
    def domains(self) -> int:
        """Number of domains, each of which is evaluated in batches of its own."""
        return len(self._evaluator.documents)

    @functools.cached_property
    def text_digest(self) -> str:
        """The documents' SHA-256, its first 12 digits: results with different ones are not comparable."""
        sha = hashlib.sha256()
        for domain, documents in sorted(self._evaluator.documents.items()):
            for document in documents:
                sha.update(f"{domain} {document.text_bytes} {document.is_whole}\n".encode())
                sha.update(document.tokens.astype("<i4").tobytes())
        return f"sha256-{sha.hexdigest()[:12]}"

    def load(self, path: Path) -> TrainedModel:
        """Load a checkpoint. Raises UserError where it is damaged, or its tokenizer is not that of the text."""
        model = self._model.sibling(path)
        tokenizer = model.manifest.meta.get("tokenizer")
        if None not in (tokenizer, self._tokenizer) and tokenizer != self._tokenizer:
            raise UserError(
                f"{path} was trained with another tokenizer than {self._model.path}, so their losses are of different "
                "tokens; evaluate the stages apart, by their directories"
            )
        return model

    def evaluate(
        self, model: TrainedModel, *, between_batches: Callable[[int, int], None] | None = None
    ) -> dict[str, HeldOutLoss]:
        """Compute the held-out loss of every domain. `between_batches(done, total)` is called after each batch.

        Raises DamagedError where the checkpoint is not what was written.
        """
        return self.evaluator_of(model).evaluate(model.params(), between_batches=between_batches)

    def evaluator_of(self, model: TrainedModel) -> StageEvaluator:
        """Return the evaluation of a checkpoint's parameters on the text; that of the one before where it fits."""
        stage, before = model.stage, self._evaluator.stage
        if (stage.model, stage.data.seq_len) != (before.model, before.data.seq_len):
            self._evaluator = model.components.evaluator_on(self._source, self._tokens, self.overlap)
        self._model = model  # the next one of its stage has the same components
        return self._evaluator
