"""Layouts of examples: causal, prefix LM, span corruption, fill-in-the-middle (PSM, SPM) and CodeGen2.

An example is a sequence of segments. A segment is a special token, if any, and a stretch of the window after it:

    causal     OPEN text
    prefix     mode prefix | continuation
    spans      mode clean S0 clean S1 .. | S0 noise S1 noise ..         (T5; S: sentinels, from the first on)
    psm        PREFIX prefix SUFFIX suffix MIDDLE middle
    spm        SUFFIX suffix PREFIX prefix MIDDLE middle
    spm_joint  PREFIX SUFFIX suffix MIDDLE prefix middle
    codegen2   OPEN clean S0 clean .. END SEPARATOR S0 noise EOM S1 noise EOM ..

Before the bar are inputs, which see each other. OPEN is the token that opens documents, unless there
is a mode, END the one that says that they end (often the same), EOM that of a noise span. At its end a causal text or a
continuation predicts the next token of the window (END, unless the document was cut there); all others predict END.

T5's span corruption is Raffel et al. 2020 (arXiv 1910.10683), modes are UL2's (arXiv 2205.05131), fill-in-the-middle is
Bavarian et al. 2022 (arXiv 2207.14255), CodeGen2 is Nijkamp et al. 2023 (arXiv 2305.02309).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from pathways_lite.keyed import random_words, uniform
from pathways_lite.objectives.denoisers import ExampleFormat, SpecialIds
from pathways_lite.objectives.packing import CUT, NOISE, SECOND_CUT, PackedExamples
from pathways_lite.objectives.span_corruption import group_starts, ragged_arange, random_partition

NO_TOKEN = -1
"""The special token of a segment that has none."""


class Segments(NamedTuple):
    """Segments of some examples, integers [S] each."""

    example: np.ndarray  # index of the example
    special: np.ndarray  # id of the special token before the text, or NO_TOKEN
    source: np.ndarray  # index of the first token of text in the flat windows
    length: np.ndarray  # tokens of text


def build_segments(
    examples: PackedExamples,
    formats: np.ndarray,
    start_tokens: np.ndarray,
    special: SpecialIds,
    key: np.ndarray,
    width: int,
) -> Segments:
    """Divide all examples into segments, in the order in which they are read.

    Args:
      formats: `ExampleFormat` of each example.
      start_tokens: the token before each example's text, for formats that do not define it.
      key: of each row.
      width: W, tokens of a window.
    """
    groups = []
    for format in np.unique(formats):
        index = np.flatnonzero(formats == format)
        build = _BUILDERS[ExampleFormat(format)]
        groups.append(build(index, examples.select(index), start_tokens[index], special, key, width))
    segments = _concatenate(groups)
    order = np.argsort(segments.example, kind="stable")
    return Segments(*(values[order] for values in segments))


def _concatenate(groups: Sequence[Segments]) -> Segments:
    return Segments(*(np.concatenate(values) for values in zip(*groups, strict=True)))


def _interleave(index: np.ndarray, columns: Sequence[tuple[object, object, object]]) -> Segments:
    """Build the same number of segments for every example, from columns of (special, source, length)."""
    grid = [np.stack([np.broadcast_to(np.asarray(c[i]), index.shape) for c in columns], 1).ravel() for i in range(3)]
    return Segments(np.repeat(index, len(columns)), *grid)


# ---- one builder per format; arguments: the numbers of some examples, these examples, and as of `build_segments` ----


def _causal(
    index: np.ndarray, p: PackedExamples, start_tokens: np.ndarray, special: SpecialIds, key: np.ndarray, width: int
) -> Segments:
    return _interleave(index, [(start_tokens, p.source, p.n_tokens)])


def _prefix(
    index: np.ndarray, p: PackedExamples, start_tokens: np.ndarray, special: SpecialIds, key: np.ndarray, width: int
) -> Segments:
    continuation = (NO_TOKEN, p.source + p.prefix_tokens, p.n_tokens - p.prefix_tokens)
    return _interleave(index, [(start_tokens, p.source, p.prefix_tokens), continuation])


def _fill_in_the_middle(
    index: np.ndarray,
    p: PackedExamples,
    start_tokens: np.ndarray,
    special: SpecialIds,
    key: np.ndarray,
    width: int,
    *,
    format: ExampleFormat,
) -> Segments:
    """Cut each text at two different places, uniformly chosen among the n + 1 possible ones."""
    column = p.source - p.row * width
    first_cut = (uniform(key[p.row], CUT, column) * (p.n_tokens + 1)).astype(np.int64)
    second_cut = (uniform(key[p.row], SECOND_CUT, column) * p.n_tokens).astype(np.int64)
    second_cut += second_cut >= first_cut
    start, stop = np.minimum(first_cut, second_cut), np.maximum(first_cut, second_cut)
    prefix = (special.id("prefix"), p.source, start)
    suffix = (special.id("suffix"), p.source + stop, p.n_tokens - stop)
    middle = (special.id("middle"), p.source + start, stop - start)
    match format:
        case ExampleFormat.PSM:
            return _interleave(index, [prefix, suffix, middle])
        case ExampleFormat.SPM:
            return _interleave(index, [suffix, prefix, middle])
        case _:
            both = (special.id("middle"), p.source, stop)  # prefix and middle, as they follow each other in the text
            return _interleave(index, [(special.id("prefix"), p.source, 0), suffix, both])


def _span_corruption(
    index: np.ndarray,
    p: PackedExamples,
    start_tokens: np.ndarray,
    special: SpecialIds,
    key: np.ndarray,
    width: int,
    *,
    codegen2: bool,
) -> Segments:
    """Build inputs, in which each noise span is a sentinel, and targets, which say what the sentinels stand for.

    The example of `_draw_noise_spans` becomes, for T5, the inputs `mode a b S0 d e f S1` and the targets `S0 C S1 G H`:
    three input segments (mode, `a b`), (S0, `d e f`), (S1, nothing) and two target segments (S0, `C`), (S1, `G H`).
    """
    clean_source, clean_length, noise_source, noise_length = _draw_noise_spans(p, key, width, clean_after=codegen2)
    n_clean = p.noise_spans + 1
    sentinels = special.sentinel(ragged_arange(np.zeros_like(p.noise_spans), p.noise_spans))
    opens_example = np.zeros(len(clean_source), bool)
    opens_example[group_starts(n_clean)] = True
    before_clean = np.empty_like(clean_source)
    before_clean[opens_example] = start_tokens
    before_clean[~opens_example] = sentinels
    inputs = Segments(np.repeat(index, n_clean), before_clean, clean_source, clean_length)
    span_example = np.repeat(index, p.noise_spans)
    targets = Segments(span_example, sentinels, noise_source, noise_length)
    if not codegen2:
        return _concatenate([inputs, targets])
    zero = np.zeros_like(index)
    between = _interleave(index, [(special.frame.end, zero, 0), (special.id("separator"), zero, 0)])
    end_of_span = np.full_like(span_example, special.id("end_of_span"))
    ends = Segments(span_example, end_of_span, noise_source, np.zeros_like(span_example))
    ended_targets = Segments(*(np.stack(values, 1).ravel() for values in zip(targets, ends, strict=True)))
    return _concatenate([inputs, between, ended_targets])


def _draw_noise_spans(
    p: PackedExamples, key: np.ndarray, width: int, *, clean_after: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Divide each text into clean stretches and noise spans, which alternate; a clean one is first (T5).

    Clean and noise tokens are each divided at random. An example has one clean stretch more than noise spans; the last
    one is empty, unless `clean_after`.

    A text of 8 tokens at source 10, with 3 noise tokens (capitals) in 2 noise spans, drawn as 2 + 3 clean and 1 + 2
    noise tokens:

        index in the window    10 11 12 13 14 15 16 17
        text                    a  b  C  d  e  f  G  H

        stretch                 0   1   2     one clean stretch more than noise spans
        clean_length            2   3   0     the drawn lengths, and 0 for the last (without `clean_after`)
        noise_after             1   2   0     length of the noise span after the stretch, and 0 for the last
        end                     3   8   8     cumsum of both; minus both: the start of the stretch
        clean_source           10  13  18     that start, counted from `source`
        noise_source           12  16         clean_source + clean_length, without the last stretch

    All examples lie one after the other in these arrays, so the cumsum also runs through the examples before: the
    start of an example's first stretch is subtracted.

    Returns:
      `clean_source` and `clean_length` [sum(noise_spans + 1)], `noise_source` and `noise_length` [sum(noise_spans)].
    """
    n_clean = p.noise_spans + 1
    first_stretch = group_starts(n_clean)
    before_span = ragged_arange(first_stretch, p.noise_spans)  # the stretches with a noise span after them

    clean_tokens = p.n_tokens - p.noise_tokens
    column = p.source - p.row * width
    random = random_words(np.repeat(key[p.row], p.n_tokens), NOISE, ragged_arange(column, p.n_tokens))
    # The last `noise_tokens` random numbers of an example divide its noise, the others its clean tokens.
    for_noise = ragged_arange(np.zeros_like(p.n_tokens), p.n_tokens) >= np.repeat(clean_tokens, p.n_tokens)
    noise_length = random_partition(p.noise_tokens, p.noise_spans, random[for_noise])
    drawn = random_partition(clean_tokens, p.noise_spans + clean_after, random[~for_noise])
    if clean_after:
        clean_length = drawn
    else:
        clean_length = np.zeros(len(drawn) + len(n_clean), np.int64)
        clean_length[before_span] = drawn

    noise_after = np.zeros_like(clean_length)
    noise_after[before_span] = noise_length
    end = np.cumsum(clean_length + noise_after)
    clean_source = end - clean_length - noise_after
    clean_source += np.repeat(p.source - clean_source[first_stretch], n_clean)
    return clean_source, clean_length, (clean_source + clean_length)[before_span], noise_length


_BUILDERS: dict[ExampleFormat, Callable[..., Segments]] = {
    ExampleFormat.CAUSAL: _causal,
    ExampleFormat.PREFIX: _prefix,
    ExampleFormat.SPANS: partial(_span_corruption, codegen2=False),
    ExampleFormat.PSM: partial(_fill_in_the_middle, format=ExampleFormat.PSM),
    ExampleFormat.SPM: partial(_fill_in_the_middle, format=ExampleFormat.SPM),
    ExampleFormat.SPM_JOINT: partial(_fill_in_the_middle, format=ExampleFormat.SPM_JOINT),
    ExampleFormat.CODEGEN2: partial(_span_corruption, codegen2=True),
}
