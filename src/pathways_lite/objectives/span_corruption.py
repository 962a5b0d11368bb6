"""T5's span corruption: how many tokens are noise, and how they are divided into noise spans.

Raffel et al. 2020 (arXiv 1910.10683); the arithmetic equals T5's code to the bit, for many examples at once. With other
rates and mean span lengths it gives the R- and X-denoisers of UL2 (arXiv 2205.05131) and UL2R (arXiv 2210.11399). T5's
random roll of the mask is left out, as in all of T5's own recipes: a mask begins clean and ends with noise.
"""

from __future__ import annotations

import numpy as np

_RANDOM_BITS, _INDEX_BITS = 24, 20  # a sorting key: example | random number | index


def raw_length(inputs_length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """Return the number of tokens to corrupt so that inputs fill `inputs_length`, and the length of the targets.

    T5's `random_spans_helper`: both lengths count a sentinel for each noise span and an EOS. Python's `round`, half to
    even, is part of the definition.
    """

    def lengths(tokens: int) -> tuple[int, int]:
        noise_tokens = round(tokens * rate)
        noise_spans = round(noise_tokens / mean_span)
        return tokens - noise_tokens + noise_spans + 1, noise_tokens + noise_spans + 1

    tokens = inputs_length - 1
    while lengths(tokens + 1)[0] <= inputs_length:
        tokens += 1
    targets = lengths(tokens)[1]
    if rate == 0.5 and targets > inputs_length:
        return tokens - 1, targets - 1
    return tokens, targets


def count_noise(
    n_tokens: np.ndarray, rate: np.ndarray, mean_span: np.ndarray, min_clean_after: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count the noise tokens and noise spans of examples of `n_tokens`.

    T5's `random_spans_noise_mask`, in its float32. At least `min_clean_after` tokens (0 in T5) follow the last noise
    span. Both counts are 0 for examples that are too short for a noise span.
    """
    most_noise = n_tokens - 1 - min_clean_after
    single = np.float32
    noise_tokens = np.rint(n_tokens.astype(single) * rate.astype(single)).astype(np.int64)
    noise_tokens = np.minimum(np.maximum(noise_tokens, 1), np.maximum(most_noise, 1))
    noise_spans = np.maximum(np.rint(noise_tokens.astype(single) / mean_span.astype(single)).astype(np.int64), 1)
    # T5 assumes that there are enough clean tokens to separate the noise spans.
    noise_spans = np.minimum(noise_spans, np.minimum(noise_tokens, n_tokens - noise_tokens - min_clean_after))
    return np.where(most_noise < 1, 0, noise_tokens), np.where(most_noise < 1, 0, noise_spans)


def random_partition(totals: np.ndarray, counts: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Divide each `totals[e]` into `counts[e]` positive lengths; every such composition is equally likely.

    T5 shuffles which tokens begin a length; here the tokens with the smallest random numbers do.

    Args:
      totals, counts: integers [E], 1 <= counts <= totals < 2**20; E below 2**20.
      random: random uint64 [sum(totals)], those of the first example first.

    Returns:
      The lengths, int64 [sum(counts)].
    """
    first = group_starts(totals)
    index = ragged_arange(np.zeros_like(totals), totals).astype(np.uint64)
    example = np.repeat(np.arange(len(totals), dtype=np.uint64), totals)
    priority = (random >> np.uint64(65 - _RANDOM_BITS)) + np.uint64(1)
    priority[first] = 0  # the first token always begins a length
    # Keys all differ, so that every sorting algorithm gives the same order.
    ordered = np.sort((example << np.uint64(_RANDOM_BITS + _INDEX_BITS)) | (priority << np.uint64(_INDEX_BITS)) | index)
    chosen = ordered[ragged_arange(first, counts)]
    begins = np.zeros(len(random) + 1, bool)
    begins[np.repeat(first, counts) + (chosen & np.uint64((1 << _INDEX_BITS) - 1)).astype(np.int64)] = True
    begins[-1] = True
    return np.diff(np.flatnonzero(begins))


def group_starts(sizes: np.ndarray) -> np.ndarray:
    """Return the index of each group's first entry in a flat array of groups: sizes [3, 1, 2] give [0, 3, 4]."""
    return np.cumsum(sizes) - sizes


def ragged_arange(first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate the ranges of `lengths[i]` integers from `first[i]` on: [7, 2] and [3, 2] give [7, 8, 9, 2, 3]."""
    return np.repeat(first - group_starts(lengths), lengths) + np.arange(lengths.sum())
