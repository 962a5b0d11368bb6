"""Measure what quantization costs a checkpoint: losses of the same held-out tokens before and after.

The differences are paired, token by token, as at 4 to 8 bits the rise is far smaller than what the text leaves open.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pathways_lite.evaluation.bits import ScoredDocument
from pathways_lite.evaluation.held_out import StageEvaluator
from pathways_lite.evaluation.paired import clustered_mean
from pathways_lite.methods.quantization import Quantization, quantize_params
from pathways_lite.models.accounting import parameter_count
from pathways_lite.models.block_by_block import BlockByBlock
from pathways_lite.recipe import stage_identity
from pathways_lite.training.calibration_text import CalibrationText, read_calibration_text
from pathways_lite.training.evaluate_checkpoints import CheckpointEvaluator, kept_checkpoints
from pathways_lite.training.load import TrainedModel


def checkpoints_of(runs: Sequence[Path]) -> list[Path]:
    """List the kept checkpoints of runs, each once though several runs share it; those of a run the oldest first."""
    found = (checkpoint.resolve() for run in runs for checkpoint in kept_checkpoints(run))
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Measurement:
    """What a row of the table measured: of which parameters, how they were rounded, on which text."""

    digest: str
    how: Quantization
    text: str  # digest of the held-out text
    overlap: int
    calibration_tokens: int | None
    corpus: str | None  # of the calibration; None: the run's own

    @property
    def key(self) -> str:
        """A hash of it: a row with the same one need not be measured again."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


class QuantizationRise:
    """One checkpoint, and how much copies of it lose.

    Args:
      evaluator: of all checkpoints that are compared, so that they share their text and compiled programs.
    """

    def __init__(self, evaluator: CheckpointEvaluator, model: TrainedModel) -> None:
        self._model = model
        self._evaluator: StageEvaluator = evaluator.evaluator_of(model)
        self._params = model.params()
        self._masks = None if model.stage.pruning is None else _nonzero(self._params)
        self._losses = self._token_losses(self._params)
        self._texts: dict[tuple[int | None, str | None], CalibrationText] = {}

    @property
    def _documents(self) -> list[ScoredDocument]:
        return [document for documents in self._evaluator.documents.values() for document in documents]

    def _token_losses(self, params: Any) -> list[np.ndarray]:
        return [losses.astype(np.float64) for losses in self._evaluator.scorer.token_losses(params, self._documents)]

    def measure(self, measurement: Measurement) -> dict[str, Any]:
        """Quantize the parameters in memory, and return the losses in nats per token as columns.

        `L_before` and `L`: before and after; `rise` their difference with `rise_error`, its standard error over
        documents; `rise_bits_per_byte` the same in bits per byte, NaN for a tokenizer that loses text. Raises UserError
        as calibration does.
        """
        how, model = measurement.how, self._model
        texts = None
        if how.method == "gptq":
            chosen = measurement.calibration_tokens, measurement.corpus
            if chosen not in self._texts:
                self._texts[chosen] = read_calibration_text(model, *chosen)
            texts = self._texts[chosen].batches
        blocks = BlockByBlock(model.stage.model, model.components.layout)
        quantized = quantize_params(blocks, how, self._params, texts, self._masks)
        placed = jax.tree.map(lambda like, x: jax.device_put(x, like.sharding), self._params, quantized)
        after = self._token_losses(placed)
        document = np.repeat(np.arange(len(after)), [len(losses) for losses in after])
        before, losses = np.concatenate(self._losses), np.concatenate(after)
        rise, error = clustered_mean(losses - before, document)
        text_bytes = sum(scored.text_bytes for scored in self._documents)
        is_lossy = self._evaluator.store.is_lossy
        return {
            "P": how.bits,
            "effective_bits": how.effective_bits(model.stage.model),
            "quantization": how.method,
            "group": how.group or 0,
            "L_before": float(before.mean()),
            "L": float(losses.mean()),
            "rise": rise,
            "rise_error": error,
            "rise_bits_per_byte": math.nan if is_lossy else rise * len(losses) / (math.log(2) * text_bytes),
        }

    def facts(self) -> dict[str, Any]:
        """Return columns of the checkpoint: exact sizes, and the stage from which its chain starts.

        Checkpoints with the same `trunk`, a hash, are of one training and not independent: resample by it.
        """
        model, spec = self._model.stage.model, self._model.spec
        return {
            "N": float(parameter_count(model)),
            "N_non_embedding": float(parameter_count(model, embedding=False)),
            "trunk": stage_identity(spec.recipe, 0),
            "digest": self._model.manifest.digest,
        }


def _nonzero(params: Any) -> dict[str, np.ndarray]:
    """Return which weights of a pruned model are left, by names of arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) != 0 for path, leaf in leaves}
