"""Which tokens of a window become an example, made by which member of the objective, and where in the row it goes.

Arrays are flat, an entry per example, in the order of rows. Letters: B rows, T positions, W = T + 1 tokens of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pathways_lite.keyed import uniform
from pathways_lite.objectives.causal import Boundaries
from pathways_lite.objectives.denoisers import DenoiserSpec, ExampleFormat, ExampleSizes, measure_examples, sizes_of
from pathways_lite.objectives.span_corruption import raw_length

# Streams of random numbers; the counter is the place in the window.
CHOICE, RATE, CUT, CUT_TOO, TOKENS = range(5)


class PackedExamples(NamedTuple):
    """Examples of some rows; integers [P]."""

    row: np.ndarray
    place: np.ndarray  # of the first token in the flat windows, B * W tokens
    n: np.ndarray  # tokens, EOD not counted
    member: np.ndarray
    noise: np.ndarray  # masked tokens
    spans: np.ndarray
    inputs: np.ndarray  # tokens before the continuation, where the member is a prefix LM
    size: np.ndarray  # positions
    column: np.ndarray  # of the first position

    def of(self, chosen: np.ndarray) -> PackedExamples:
        return PackedExamples(*(values[chosen] for values in self))


def split_documents(windows: np.ndarray, eod: int, boundaries: Boundaries) -> tuple[np.ndarray, ...]:
    """Row, place and length of every document (or part of one) of the windows' first T tokens, without its EOD.

    With boundaries "none" a window is one.
    """
    rows, width = windows.shape
    if boundaries == "none":
        row = np.arange(rows)
        return row, row * width, np.full(rows, width - 1)
    opens = windows[:, :-1] == eod
    begins = opens.copy()
    begins[:, 0] = True
    row, column = np.nonzero(begins)
    stop = np.append(column[1:], 0)
    stop[np.append(row[1:] != row[:-1], True)] = width - 1
    first = column + opens[row, column]
    return row, row * width + first, stop - first


def pack_greedy(
    row: np.ndarray, place: np.ndarray, n: np.ndarray, members: Sequence[DenoiserSpec], key: np.ndarray, seq_len: int
) -> PackedExamples:
    """Examples of as many documents as fit into `seq_len` positions a row; the one that crosses the end is cut.

    A window's documents never run out before its row does, as no example takes fewer positions than its tokens and
    one more. What is left, because another span does not fit, is all that a row has to spare: 0 to 2 positions by T5's
    span corruption, at most 5 by CodeGen2's.
    """
    column = place - row * (seq_len + 1)
    member, rate = _choose(members, key[row], column)
    sizes = sizes_of(members).of(member)
    size = measure_examples(sizes, n, rate)[2]
    ends = np.cumsum(size)
    first_of_row = np.searchsorted(row, row)
    before = ends - size - (ends - size)[first_of_row]
    room = seq_len - before
    crossing = (size > room) & (room > 0)
    n = n.copy()
    n[crossing] = _longest(sizes.of(crossing), rate[crossing], room[crossing])
    noise, spans, size = measure_examples(sizes, n, rate)
    inputs = 1 + (uniform(key[row], CUT, column) * (n - 1)).astype(np.int64)
    return PackedExamples(row, place, n, member, noise, spans, inputs, size, before).of(room > 0)


def pack_fixed(
    row: np.ndarray, place: np.ndarray, members: Sequence[DenoiserSpec], key: np.ndarray, seq_len: int
) -> PackedExamples:
    """One example a row, of so many tokens that inputs and targets each fit into half of it, as UL2R's did.

    Prefix and continuation are those tokens before and after the chosen one that fit.
    """
    member, rate = _choose(members, key[row], np.zeros_like(row))
    half = seq_len // 2
    sizes = sizes_of(members).of(member)
    whole = _longest(sizes, rate, np.full_like(row, seq_len))
    halves = [raw_length(half, m.most, m.mean_span)[0] if m.form is ExampleFormat.SPANS else seq_len for m in members]
    n = np.minimum(whole, np.array(halves)[member])
    inputs = 1 + (uniform(key[row], CUT, np.zeros_like(row)) * (n - 1)).astype(np.int64)
    prefix = np.array([m.form is ExampleFormat.PREFIX for m in members])[member]
    before = np.where(prefix, np.minimum(inputs, half - 1), n)
    place = place + np.where(prefix, inputs - before, 0)
    n = np.where(prefix, before + np.minimum(n - inputs, half), n)
    noise, spans, size = measure_examples(sizes, n, rate)
    return PackedExamples(row, place, n, member, noise, spans, before, size, np.zeros_like(row))


def _choose(members: Sequence[DenoiserSpec], key: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The member that makes each example, and its share of masked tokens."""
    ends = np.cumsum([member.weight for member in members])
    chosen = np.searchsorted(ends[:-1], uniform(key, CHOICE, index), side="right")
    least, most = (np.array([getattr(m, name) for m in members])[chosen] for name in ("least", "most"))
    return chosen, (least + uniform(key, RATE, index) * (most - least)).astype(np.float32)


def _longest(sizes: ExampleSizes, rate: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The most tokens that an example of at most `room` positions can have."""
    low, high = np.zeros_like(room), room - 1
    while (low < high).any():
        middle = (low + high + 1) // 2
        fits = measure_examples(sizes, middle, rate)[2] <= room
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    return low
