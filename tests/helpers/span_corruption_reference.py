"""T5's span corruption as its paper and code define it, one example at a time: the reference for `objectives`."""

import numpy as np


def noise_counts(length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """Return the numbers of noise tokens and of noise spans of `random_spans_noise_mask`, in float32 as there."""
    f = np.float32
    noise = int(np.clip(np.round(f(length) * f(rate)), 1, length - 1))
    return noise, max(int(np.round(f(noise) / f(mean_span))), 1)


def replace_spans(tokens: list[int], mask: list[bool], first: int) -> list[int]:
    """Replace every masked span by the next sentinel, down from `first` (T5's `noise_span_to_unique_sentinel`)."""
    out, masked_before = [], False
    for token, masked in zip(tokens, mask, strict=True):
        if masked and not masked_before:
            out.append(first)
            first -= 1
        elif not masked:
            out.append(token)
        masked_before = masked
    return out


def corrupt(tokens: list[int], mask: list[bool], first: int) -> tuple[list[int], list[int]]:
    """Return the inputs and targets without EOS."""
    return replace_spans(tokens, mask, first), replace_spans(tokens, [not m for m in mask], first)
