"""Packing: choose which tokens of a window become an example, its denoiser, and its columns in the row.

Documents become examples one after the other until the row is full (`pack_greedy`), or a row holds one example whose
inputs and targets take half of it each (`pack_fixed`, as UL2R's did). Arrays are flat, an entry per example, in the
order of rows. Letters: B rows, T positions, W = T + 1 tokens of a window, P examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pathways_lite.document_frame import DocumentFrame
from pathways_lite.keyed import uniform
from pathways_lite.objectives.causal import Boundaries
from pathways_lite.objectives.denoisers import DenoiserSpec, ExampleFormat, SizeParams, measure_examples, size_params
from pathways_lite.objectives.span_corruption import raw_length

# Streams of random numbers; the counter is the column in the window.
DENOISER, RATE, CUT, SECOND_CUT, NOISE = range(5)


class PackedExamples(NamedTuple):
    """The examples of some rows, integers [P] each."""

    row: np.ndarray
    source: np.ndarray  # index of the first token in the flat windows, B * W tokens
    n_tokens: np.ndarray  # of text, without the tokens around it
    denoiser: np.ndarray  # index of the `DenoiserSpec`
    noise_tokens: np.ndarray
    noise_spans: np.ndarray
    prefix_tokens: np.ndarray  # before the continuation, if the denoiser is a prefix LM
    n_positions: np.ndarray
    column: np.ndarray  # of the first position

    def select(self, index: np.ndarray) -> PackedExamples:
        """Return the examples at `index`, integers or a mask."""
        return PackedExamples(*(values[index] for values in self))


def split_documents(windows: np.ndarray, frame: DocumentFrame, boundaries: Boundaries) -> tuple[np.ndarray, ...]:
    """Find the documents, whole or cut, in the first T tokens of each window [B, W].

    With boundaries "none" a window counts as one document.

    Returns:
      Row, source and number of tokens of each document, without the tokens that open and close it. A closing token
      with which a window begins is none.
    """
    rows, width = windows.shape
    if boundaries == "none":
        row = np.arange(rows)
        return row, row * width, np.full(rows, width - 1)
    inputs = windows[:, :-1]
    opens = inputs == frame.opens
    begins = opens.copy()
    begins[:, 0] = True
    row, column = np.nonzero(begins)
    stop = np.append(column[1:], 0)
    stop[np.append(row[1:] != row[:-1], True)] = width - 1
    first = column + opens[row, column]
    n_tokens = stop - first
    if frame.closes is not None:
        is_rest = (first == column) & (inputs[row, column] == frame.closes)  # of a document in the window before
        n_tokens -= inputs[row, stop - 1] == frame.closes
        row, first, n_tokens = row[~is_rest], first[~is_rest], n_tokens[~is_rest]
    return row, row * width + first, n_tokens


def pack_greedy(
    row: np.ndarray,
    source: np.ndarray,
    n_tokens: np.ndarray,
    specs: Sequence[DenoiserSpec],
    key: np.ndarray,
    seq_len: int,
) -> PackedExamples:
    """Make examples of as many documents as fit into `seq_len` positions a row; cut the one that crosses the end.

    A window never runs out of documents before its row is full, because an example takes at least one position more
    than its tokens; where a token closes documents, its examples may take one position less, and those are left over.
    Beside them the only positions left over are those into which another noise span does not fit: 0 to 2 a row for T5's
    span corruption, at most 5 for CodeGen2.
    """
    column = source - row * (seq_len + 1)
    denoiser, rate = _choose_denoisers(specs, key[row], column)
    params = size_params(specs).select(denoiser)
    n_positions = measure_examples(params, n_tokens, rate)[2]
    start = np.cumsum(n_positions) - n_positions
    first_of_row = np.searchsorted(row, row)
    target_column = start - start[first_of_row]
    room = seq_len - target_column
    crosses_end = (n_positions > room) & (room > 0)
    n_tokens = n_tokens.copy()
    n_tokens[crosses_end] = _max_tokens(params.select(crosses_end), rate[crosses_end], room[crosses_end])
    noise_tokens, noise_spans, n_positions = measure_examples(params, n_tokens, rate)
    prefix_tokens = 1 + (uniform(key[row], CUT, column) * (n_tokens - 1)).astype(np.int64)
    examples = PackedExamples(
        row, source, n_tokens, denoiser, noise_tokens, noise_spans, prefix_tokens, n_positions, target_column
    )
    return examples.select(room > 0)


def pack_fixed(
    row: np.ndarray, source: np.ndarray, specs: Sequence[DenoiserSpec], key: np.ndarray, seq_len: int
) -> PackedExamples:
    """Make one example a row, of as many tokens as let inputs and targets each fit into half of it, as UL2R's did.

    For a prefix LM, prefix and continuation are the tokens before and after the chosen cut that fit.
    """
    column = np.zeros_like(row)
    denoiser, rate = _choose_denoisers(specs, key[row], column)
    half = seq_len // 2
    params = size_params(specs).select(denoiser)
    fits_row = _max_tokens(params, rate, np.full_like(row, seq_len))
    fits_halves = [
        raw_length(half, spec.max_rate, spec.mean_span)[0] if spec.format is ExampleFormat.SPANS else seq_len
        for spec in specs
    ]
    n_tokens = np.minimum(fits_row, np.array(fits_halves)[denoiser])
    cut = 1 + (uniform(key[row], CUT, column) * (n_tokens - 1)).astype(np.int64)
    is_prefix_lm = np.array([spec.format is ExampleFormat.PREFIX for spec in specs])[denoiser]
    prefix_tokens = np.where(is_prefix_lm, np.minimum(cut, half - 1), n_tokens)
    source = source + np.where(is_prefix_lm, cut - prefix_tokens, 0)
    n_tokens = np.where(is_prefix_lm, prefix_tokens + np.minimum(n_tokens - cut, half), n_tokens)
    noise_tokens, noise_spans, n_positions = measure_examples(params, n_tokens, rate)
    return PackedExamples(
        row, source, n_tokens, denoiser, noise_tokens, noise_spans, prefix_tokens, n_positions, column
    )


def _choose_denoisers(
    specs: Sequence[DenoiserSpec], key: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose each example's denoiser, and the fraction of its tokens that is noise."""
    cumulative = np.cumsum([spec.weight for spec in specs])
    chosen = np.searchsorted(cumulative[:-1], uniform(key, DENOISER, column), side="right")
    low, high = (np.array(rates)[chosen] for rates in zip(*((s.min_rate, s.max_rate) for s in specs), strict=True))
    return chosen, (low + uniform(key, RATE, column) * (high - low)).astype(np.float32)


def _max_tokens(params: SizeParams, rate: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Return the largest number of tokens of an example of at most `room` positions, by bisection."""
    low, high = np.zeros_like(room), room - 1
    while (low < high).any():
        middle = (low + high + 1) // 2
        fits = measure_examples(params, middle, rate)[2] <= room
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    return low
