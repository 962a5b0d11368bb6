"""Batches of examples that are not plain text: denoising and infilling, packed into rows."""

from __future__ import annotations

import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.keyed import keys
from pathways_lite.objectives.causal import Boundaries, causal, sample_ids
from pathways_lite.objectives.denoisers import ExampleFormat, denoiser_specs
from pathways_lite.objectives.packing import PackedExamples, pack_fixed, pack_greedy, split_documents
from pathways_lite.objectives.segments import NONE, Segments, Special, segments
from pathways_lite.objectives.span_corruption import ragged_arange
from pathways_lite.recipe.objective import Causal, Objective

_BLOCK = 1 << 17  # tokens that are corrupted together: as many as stay in a core's cache


def make_batch(
    objective: Objective,
    windows: np.ndarray,
    eod: int,
    boundaries: Boundaries,
    domain: np.ndarray,
    example: np.ndarray,
    seed: int,
) -> Batch:
    """The batch of B windows of T+1 consecutive tokens, as `objective` wants it.

    Args:
      windows, eod, boundaries, domain, example: see `causal`. With boundaries "none" a window is one text; otherwise
        each of its documents becomes an example, made by a member of the objective of its own.
      seed: with a window's example number the key of all random choices: a row depends on nothing else.

    A position is without use where it has no loss and sees itself alone (`unused`).
    """
    if isinstance(objective, Causal):
        return causal(windows, eod, boundaries, domain, example)
    rows, length = len(windows), windows.shape[1] - 1
    key = keys("corruption", seed, example)
    block = max(1, _BLOCK // length)
    slices = [slice(first, first + block) for first in range(0, rows, block)]
    parts = [_corrupt(objective, np.ascontiguousarray(windows[s]), eod, boundaries, key[s]) for s in slices]
    tokens, targets, weights, positions, start, stop = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Batch(
        tokens=tokens,
        targets=targets,
        loss_weights=weights,
        positions=positions,
        spans=Spans(start, stop),
        domain=np.asarray(domain, dtype=np.int32),
        sample_id=sample_ids(example),
    )


def unused(batch: Batch) -> float:
    """The share of a NumPy batch's positions that serve nothing: they carry no loss, and nothing else sees them."""
    alone = np.asarray(batch.spans.stop) - np.asarray(batch.spans.start) == 1
    return float(np.mean(alone & (np.asarray(batch.loss_weights) == 0)))


def _corrupt(
    objective: Objective, windows: np.ndarray, eod: int, boundaries: Boundaries, key: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Tokens, targets, loss weights, positions and spans [B, T] of a few rows."""
    assert not isinstance(objective, Causal)
    found = denoiser_specs(objective)
    rows, width = windows.shape
    row, place, n = split_documents(windows, eod, boundaries)
    if objective.layout == "fixed":
        pieces = pack_fixed(row, place, found, key, width - 1)
    else:
        pieces = pack_greedy(row, place, n, found, key, width - 1)
    special = Special(eod, objective.tokens)
    form, shortest, opener = (
        np.array(values)[pieces.member]
        for values in zip(*((m.form, m.shortest, special.start_token(m)) for m in found), strict=True)
    )
    form = np.where(pieces.n < shortest, ExampleFormat.CAUSAL, form)
    parts = segments(pieces, form, opener, special, key, width)
    return _lay_out(windows.ravel(), rows, width - 1, pieces, parts, form, eod)


def _lay_out(
    flat: np.ndarray, rows: int, length: int, pieces: PackedExamples, parts: Segments, form: np.ndarray, eod: int
) -> tuple[np.ndarray, ...]:
    """Copy the segments to their positions, and say for each what it predicts and sees."""
    begins = (parts.special != NONE).astype(np.int64)
    count = parts.length + begins
    at = ragged_arange(pieces.row * length + pieces.column, pieces.size)  # of every used position in the flat rows
    first = np.cumsum(count) - count
    source = ragged_arange(parts.place - begins, count)
    values = flat.take(source, mode="clip").astype(np.int32)  # what lies before a segment's first token is replaced
    with_special = begins.astype(bool)
    values[first[with_special]] = parts.special[with_special]

    # A text that goes on predicts its next token, everything else that it is complete.
    last = np.cumsum(pieces.size) - 1
    goes_on = (form == ExampleFormat.CAUSAL) | (form == ExampleFormat.PREFIX)
    predicted = np.append(values[1:], np.int32(eod))
    predicted[last] = np.where(goes_on, flat[pieces.place + pieces.n], eod)

    inputs = _inputs(pieces, form)
    column = np.repeat(pieces.column, pieces.size)
    position = ragged_arange(np.zeros_like(pieces.size), pieces.size)
    inputs_here = np.repeat(inputs, pieces.size)
    own = np.tile(np.arange(length, dtype=np.int32), rows)
    tokens, targets, positions = (np.zeros(rows * length, np.int32) for _ in range(3))
    weights = np.zeros(rows * length, np.float32)
    start, stop = own.copy(), own + np.int32(1)
    tokens[at], targets[at], positions[at] = values, predicted, position
    weights[at] = position >= inputs_here - 1
    start[at], stop[at] = column, column + np.maximum(position + 1, inputs_here)
    return tuple(a.reshape(rows, length) for a in (tokens, targets, weights, positions, start, stop))


def _inputs(pieces: PackedExamples, form: np.ndarray) -> np.ndarray:
    """Positions of each example that see each other; the last of them is the first that carries loss."""
    spans = np.where(form == ExampleFormat.SPANS, 1 + pieces.n - pieces.noise + pieces.spans, 0)
    return np.where(form == ExampleFormat.PREFIX, 1 + pieces.inputs, spans)
