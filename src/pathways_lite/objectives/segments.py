"""Examples as segments: a special token and a stretch of the window after it, in the order in which they are read.

    causal     EOD text
    prefix     mode prefix | continuation
    spans      mode clean S0 clean S1 .. | S0 noise S1 noise ..         (T5; S: sentinels, from the first on)
    psm        PREFIX prefix SUFFIX suffix MIDDLE middle
    spm        SUFFIX suffix PREFIX prefix MIDDLE middle
    codegen2   EOD clean S0 clean .. EOD SEPARATOR S0 noise END S1 noise END ..

Before the bar are inputs, which see each other. An example ends by predicting EOD, a text that goes on its next token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from pathways_lite.keyed import uniform, words
from pathways_lite.objectives.denoisers import DenoiserSpec, ExampleFormat
from pathways_lite.objectives.packing import CUT, CUT_TOO, TOKENS, PackedExamples
from pathways_lite.objectives.span_corruption import ragged_arange, random_partition
from pathways_lite.recipe.objective import SpecialTokens

NONE = -1  # no special token


class Segments(NamedTuple):
    """Integers [S]."""

    piece: np.ndarray  # which example it belongs to
    special: np.ndarray  # id of the token that it begins with, or NONE
    place: np.ndarray  # of the first token in the flat windows
    length: np.ndarray  # tokens


class Special(NamedTuple):
    """What segments may begin with: the declared special tokens, where there are any, and EOD."""

    eod: int
    tokens: SpecialTokens | None

    def id(self, name: str) -> int:
        assert self.tokens is not None
        return int(getattr(self.tokens, name))

    def start_token(self, member: DenoiserSpec) -> int:
        return self.eod if member.mode is None else self.id(member.mode)

    def sentinel(self, number: np.ndarray) -> np.ndarray:
        """T5: the first span's is the last id of the vocabulary, then downwards."""
        return self.id("first_sentinel") - number


def segments(
    pieces: PackedExamples, form: np.ndarray, opener: np.ndarray, special: Special, key: np.ndarray, width: int
) -> Segments:
    """The segments of all examples, in order.

    Args:
      form, opener: of each example; the opener is the token before its text, where its form does not say which.
      key: each row's.
      width: the windows'.
    """
    parts = []
    for kind in np.unique(form):
        mine = np.flatnonzero(form == kind)
        parts.append(_BUILDERS[ExampleFormat(kind)](mine, pieces.of(mine), opener[mine], special, key, width))
    joined = Segments(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    order = np.argsort(joined.piece, kind="stable")
    return Segments(*(values[order] for values in joined))


def _interleave(index: np.ndarray, columns: Sequence[tuple[object, object, object]]) -> Segments:
    """The same number of segments for every example: columns of (special, place, length)."""
    grid = [np.stack([np.broadcast_to(np.asarray(c[i]), index.shape) for c in columns], 1).ravel() for i in range(3)]
    return Segments(np.repeat(index, len(columns)), *grid)


def _causal(
    index: np.ndarray, p: PackedExamples, opener: np.ndarray, special: Special, key: np.ndarray, width: int
) -> Segments:
    return _interleave(index, [(opener, p.place, p.n)])


def _prefix(
    index: np.ndarray, p: PackedExamples, opener: np.ndarray, special: Special, key: np.ndarray, width: int
) -> Segments:
    continuation = (NONE, p.place + p.inputs, p.n - p.inputs)
    return _interleave(index, [(opener, p.place, p.inputs), continuation])


def _middle(
    index: np.ndarray,
    p: PackedExamples,
    opener: np.ndarray,
    special: Special,
    key: np.ndarray,
    width: int,
    *,
    spm: bool,
) -> Segments:
    """Two different cuts, uniformly chosen among the n + 1 places where one can be."""
    column = p.place - p.row * width
    one = (uniform(key[p.row], CUT, column) * (p.n + 1)).astype(np.int64)
    other = (uniform(key[p.row], CUT_TOO, column) * p.n).astype(np.int64)
    other += other >= one
    start, stop = np.minimum(one, other), np.maximum(one, other)
    prefix = (special.id("prefix"), p.place, start)
    suffix = (special.id("suffix"), p.place + stop, p.n - stop)
    middle = (special.id("middle"), p.place + start, stop - start)
    return _interleave(index, [suffix, prefix, middle] if spm else [prefix, suffix, middle])


def _masked(
    index: np.ndarray,
    p: PackedExamples,
    opener: np.ndarray,
    special: Special,
    key: np.ndarray,
    width: int,
    *,
    codegen2: bool,
) -> Segments:
    """Inputs with sentinels, then what these stand for."""
    clean_place, clean_length, noise_place, noise_length = _spans(p, key, width, clean_after=codegen2)
    number = ragged_arange(np.zeros_like(p.spans), p.spans)  # of the span in its example
    piece = np.repeat(index, p.spans)
    sentinel = special.sentinel(number)
    first = np.cumsum(p.spans + 1) - (p.spans + 1)
    begins = np.zeros(len(clean_place), bool)
    begins[first] = True
    inputs = Segments(np.repeat(index, p.spans + 1), np.empty_like(clean_place), clean_place, clean_length)
    inputs.special[begins] = opener
    inputs.special[~begins] = sentinel
    targets = Segments(piece, sentinel, noise_place, noise_length)
    parts = [inputs, targets]
    if codegen2:
        nothing = np.zeros_like(index)
        between = _interleave(index, [(special.eod, nothing, 0), (special.id("separator"), nothing, 0)])
        ends = Segments(piece, np.full_like(piece, special.id("end_of_span")), noise_place, np.zeros_like(piece))
        pairs = [np.stack(values, 1).ravel() for values in zip(targets, ends, strict=True)]
        parts = [inputs, between, Segments(*pairs)]
    return Segments(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _spans(
    p: PackedExamples, key: np.ndarray, width: int, *, clean_after: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Place and length of all clean stretches, one more than spans in each example, and of all spans.

    Clean and masked tokens are each divided at random, and the parts take turns, a clean one first (T5). What follows
    the last span is empty, but with `clean_after`.
    """
    clean, spans = p.n - p.noise, p.spans
    column = p.place - p.row * width
    row = np.repeat(key[p.row], p.n)
    random = words(row, TOKENS, ragged_arange(column, p.n))
    is_noise = ragged_arange(np.zeros_like(p.n), p.n) >= np.repeat(clean, p.n)
    noise_length = random_partition(p.noise, spans, random[is_noise])
    drawn = random_partition(clean, spans + clean_after, random[~is_noise])
    if clean_after:
        clean_length = drawn
    else:
        clean_length = np.zeros(len(drawn) + len(spans), np.int64)
        clean_length[ragged_arange(np.cumsum(spans + 1) - (spans + 1), spans)] = drawn
    # Taking turns: every clean stretch with the span after it, of which the last has none.
    after = np.zeros_like(clean_length)
    with_span = ragged_arange(np.cumsum(spans + 1) - (spans + 1), spans)
    after[with_span] = noise_length
    ends = np.cumsum(clean_length + after)
    start = ends - clean_length - after
    start += np.repeat(p.place - start[np.cumsum(spans + 1) - (spans + 1)], spans + 1)
    return start, clean_length, (start + clean_length)[with_span], noise_length


# The arguments of each: numbers of the examples in question, those, their openers, and as of `segments`.
_BUILDERS: dict[ExampleFormat, Callable[..., Segments]] = {
    ExampleFormat.CAUSAL: _causal,
    ExampleFormat.PREFIX: _prefix,
    ExampleFormat.SPANS: partial(_masked, codegen2=False),
    ExampleFormat.PSM: partial(_middle, spm=False),
    ExampleFormat.SPM: partial(_middle, spm=True),
    ExampleFormat.CODEGEN2: partial(_masked, codegen2=True),
}
