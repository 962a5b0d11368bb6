"""How well a model does what its objective asks: the held-out loss of every denoiser.

The losses are comparable neither with each other nor with a causal model's: another part of the text is predicted, from
another part. What they are for is to follow one denoiser along a run, or between runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.evaluation.bits import Evaluator
from pathways_lite.objectives.batches import make_batch, unused_fraction
from pathways_lite.objectives.causal import Boundaries
from pathways_lite.objectives.denoisers import split_mixture
from pathways_lite.recipe import Causal, Objective


def denoiser_losses(
    evaluator: Evaluator,
    params: Any,
    objective: Objective,
    documents: Sequence[np.ndarray],
    *,
    eod: int,
    boundaries: Boundaries,
    seed: int,
    between_batches: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """By denoiser: `loss` (nats per token with loss), `tokens` (those), `unused` (share of positions without use).

    Each makes its own examples of the same `documents` (int32, EOD first), joined to one stream and cut into windows. A
    causal objective has no denoisers, and documents shorter than a window in all give no losses.
    """
    results: dict[str, dict[str, float]] = {}
    if isinstance(objective, Causal):
        return results
    windows = _windows(documents, evaluator.seq_len)
    if not len(windows):
        return results
    for label, alone in split_mixture(objective).items():
        example = np.arange(len(windows))
        batch = make_batch(alone, windows, eod, boundaries, np.zeros_like(example), example, seed)
        parts, count = _padded(batch, evaluator.rows), -(-len(windows) // evaluator.rows)
        nll = evaluator.total(params, parts, count, between_batches=between_batches)
        tokens = int(batch.loss_weights.sum())
        results[label] = {"loss": nll / tokens, "tokens": tokens, "unused": unused_fraction(batch)}
    return results


def _windows(documents: Sequence[np.ndarray], seq_len: int) -> np.ndarray:
    """Windows [n, T + 1] of the documents one after the other; neighbours share a token, a last stretch is left out."""
    stream = np.concatenate([*documents, np.zeros(0, np.int32)])
    count = max(0, len(stream) - 1) // seq_len
    return stream[np.arange(count)[:, None] * seq_len + np.arange(seq_len + 1)].astype(np.int32)


def _padded(batch: Batch, rows: int) -> Iterator[Batch]:
    """Batches of exactly `rows` rows; rows that come twice carry no loss."""
    count = len(batch.tokens)
    for first in range(0, count, rows):
        number = first + np.arange(rows)
        part = jax.tree.map(lambda values, chosen=number % count: values[chosen], batch)
        yield part._replace(loss_weights=part.loss_weights * (number < count)[:, None].astype(np.float32))
