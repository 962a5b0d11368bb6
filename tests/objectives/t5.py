"""T5's span corruption as its paper and code define it, one example at a time: a reference for our own."""

import numpy as np


def counts(length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """Count noise tokens and noise spans as `random_spans_noise_mask`, in float32 as there."""
    f = np.float32
    noise = int(np.clip(np.round(f(length) * f(rate)), 1, length - 1))
    return noise, max(int(np.round(f(noise) / f(mean_span))), 1)


def to_sentinels(tokens: list[int], mask: list[bool], first: int) -> list[int]:
    """`noise_span_to_unique_sentinel`: replace every noise span by the next sentinel, downwards from `first`."""
    out, masked_before = [], False
    for token, masked in zip(tokens, mask, strict=True):
        if masked and not masked_before:
            out.append(first)
            first -= 1
        elif not masked:
            out.append(token)
        masked_before = masked
    return out


def corrupted(tokens: list[int], mask: list[bool], first: int) -> tuple[list[int], list[int]]:
    """Return inputs and targets, without EOS."""
    return to_sentinels(tokens, mask, first), to_sentinels(tokens, [not m for m in mask], first)
