"""T5's span corruption (Raffel et al. 2020, arXiv 1910.10683), its arithmetic to the bit; many examples at once.

T5's random roll of the mask is left out, as everywhere in its own recipes: a mask begins clean and ends with noise.
"""

from __future__ import annotations

import numpy as np

_RANDOM, _INDEX = 24, 20  # bits of a sorting key: example | random | index


def raw_length(inputs_length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """How many tokens to corrupt so that inputs are at most `inputs_length` long, and how long targets are then.

    T5's `random_spans_helper`: both lengths count a sentinel for each span and an EOS. Python's `round`, half to even,
    is part of the definition.
    """

    def lengths(tokens: int) -> tuple[int, int]:
        noise = round(tokens * rate)
        spans = round(noise / mean_span)
        return tokens - noise + spans + 1, noise + spans + 1

    tokens = inputs_length - 1
    while lengths(tokens + 1)[0] <= inputs_length:
        tokens += 1
    targets = lengths(tokens)[1]
    if rate == 0.5 and targets > inputs_length:
        return tokens - 1, targets - 1
    return tokens, targets


def noise_counts(
    n: np.ndarray, rate: np.ndarray, mean_span: np.ndarray, clean_after: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Noise tokens and spans of examples of `n` tokens: those of T5's `random_spans_noise_mask`, in its float32.

    `clean_after`, 0 in T5, tokens at least follow the last span. Both results are 0 for examples too short for a span.
    """
    room = n - 1 - clean_after
    single = np.float32
    noise = np.rint(n.astype(single) * rate.astype(single)).astype(np.int64)
    noise = np.minimum(np.maximum(noise, 1), np.maximum(room, 1))
    spans = np.maximum(np.rint(noise.astype(single) / mean_span.astype(single)).astype(np.int64), 1)
    # T5 takes for granted that there are enough clean tokens to stand between spans.
    spans = np.minimum(spans, np.minimum(noise, n - noise - clean_after))
    return np.where(room < 1, 0, noise), np.where(room < 1, 0, spans)


def random_partition(totals: np.ndarray, parts: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Lengths of `parts[e]` positive parts that add up to `totals[e]`, every such composition equally likely.

    Args:
      totals, parts: integers [E], 1 <= parts <= totals < 2**20; E below 2**20.
      words: random uint64 [sum(totals)], those of the first example first.

    Returns int64 [sum(parts)]. T5 shuffles which tokens begin a part; here those with the least random numbers do.
    """
    first = np.cumsum(totals) - totals
    index = ragged_arange(np.zeros_like(totals), totals).astype(np.uint64)
    example = np.repeat(np.arange(len(totals), dtype=np.uint64), totals)
    random = (words >> np.uint64(65 - _RANDOM)) + np.uint64(1)
    random[first] = 0  # the first token always begins a part
    # Keys all differ, so that every sorting algorithm gives the same order.
    order = np.sort((example << np.uint64(_RANDOM + _INDEX)) | (random << np.uint64(_INDEX)) | index)
    chosen = order[ragged_arange(first, parts)]
    begins = np.zeros(len(words) + 1, bool)
    begins[np.repeat(first, parts) + (chosen & np.uint64((1 << _INDEX) - 1)).astype(np.int64)] = True
    begins[-1] = True
    return np.diff(np.flatnonzero(begins))


def ragged_arange(first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The integers first[0], first[0] + 1, .. (lengths[0] of them), first[1], first[1] + 1, ..; int64."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(first - before, lengths) + np.arange(lengths.sum())
