"""Held-out loss of every denoiser that an objective mixes (UL2R's S, R and X, say).

The losses cannot be compared with each other or with a causal model's, since each denoiser predicts other tokens from
other tokens. They follow one denoiser during a run, or compare it between runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.evaluation.bits import Evaluator
from pathways_lite.objectives.batches import TracedBatch, make_traced_batch, unused_fraction
from pathways_lite.objectives.causal import Boundaries
from pathways_lite.objectives.denoisers import split_mixture
from pathways_lite.recipe import Causal, Objective


def denoiser_losses(
    evaluator: Evaluator,
    params: Any,
    objective: Objective,
    documents: Sequence[np.ndarray],
    *,
    frame: DocumentFrame,
    boundaries: Boundaries,
    seed: int,
    between_batches: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate each denoiser on its own examples of the same documents.

    `documents` (int32, as they stand in the corpus's stream) are joined to one and cut into windows. The result is
    empty for a causal objective, and if the stream is shorter than a window.

    Returns:
      By denoiser: `loss` (nats per token) and `tokens` (those with loss); the same for the tokens of the text,
      `content_loss` and `content_tokens`, and for sentinels, other special tokens and the end, `format_loss` and
      `format_tokens`; `unused` (fraction of positions). Losses without a token are left out.
    """
    results: dict[str, dict[str, float]] = {}
    if isinstance(objective, Causal):
        return results
    windows = join_windows(documents, evaluator.seq_len)
    if not len(windows):
        return results
    for label, denoiser in split_mixture(objective).items():
        example = np.arange(len(windows))
        traced = make_traced_batch(denoiser, windows, frame, boundaries, np.zeros_like(example), example, seed)
        batches, count = _split_rows(traced.batch, evaluator.rows), -(-len(windows) // evaluator.rows)
        losses = evaluator.losses(params, batches, count, between_batches=between_batches)
        results[label] = _summarize(traced, losses, evaluator.rows)
    return results


def _summarize(traced: TracedBatch, losses: Iterable[tuple[Batch, np.ndarray]], rows: int) -> dict[str, float]:
    """Average the nats of batches of `rows` rows, [rows, T] each: all, and content and format apart."""
    parts = {"": traced.batch.loss_weights > 0, "content_": traced.is_content, "format_": traced.is_format}
    nll = dict.fromkeys(parts, 0.0)
    for number, (_, batch_nll) in enumerate(losses):
        for part, chosen in parts.items():
            batch_chosen = chosen[number * rows : (number + 1) * rows]
            nll[part] += float(np.sum(batch_nll[: len(batch_chosen)], where=batch_chosen))
    result: dict[str, float] = {}
    for part, chosen in parts.items():
        if tokens := int(chosen.sum()):
            result[f"{part}loss"] = nll[part] / tokens
        result[f"{part}tokens"] = tokens
    return result | {"unused": unused_fraction(traced.batch)}


def join_windows(documents: Sequence[np.ndarray], seq_len: int) -> np.ndarray:
    """Cut the joined documents into windows [n, T + 1] that overlap by a token; an incomplete last one is dropped."""
    stream = np.concatenate([*documents, np.zeros(0, np.int32)])
    count = max(0, len(stream) - 1) // seq_len
    return stream[np.arange(count)[:, None] * seq_len + np.arange(seq_len + 1)].astype(np.int32)


def _split_rows(batch: Batch, rows: int) -> Iterator[Batch]:
    """Split into batches of exactly `rows` rows; the last one is filled with earlier rows, without loss."""
    count = len(batch.tokens)
    for first in range(0, count, rows):
        number = first + np.arange(rows)
        chunk = jax.tree.map(lambda values, index=number % count: values[index], batch)
        yield chunk._replace(loss_weights=chunk.loss_weights * (number < count)[:, None].astype(np.float32))
