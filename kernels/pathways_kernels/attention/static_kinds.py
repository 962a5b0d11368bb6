"""Spans that are known while tracing, recognized as full, causal or a sliding window, which have fast paths."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pathways_kernels.attention.spans import Spans


class Full(NamedTuple):
    """Every query sees every key."""


class Causal(NamedTuple):
    """Query i is at key `offset + i` and sees the keys up to it."""

    offset: int


class Window(NamedTuple):
    """Causal, but only the last `size` keys."""

    size: int
    offset: int


SpanKind = Full | Causal | Window


def static_kind(spans: Spans, n_keys: int) -> SpanKind | None:
    """Recognize the kind of `spans` by their values; None for another kind, or if they are not NumPy.

    The constructors in `spans` return NumPy, which is known while tracing, unless an argument is a JAX array. Spans
    beyond either end count as clipped; a window that covers every query's whole past is causal, and causal spans that
    cover every key are full.
    """
    if not all(isinstance(x, np.ndarray) for x in spans):
        return None
    start, stop = np.maximum(spans.start, 0), np.minimum(spans.stop, n_keys)
    if (start != start[0]).any() or (stop != stop[0]).any():
        return None
    start, stop = start[0].astype(np.int64), stop[0].astype(np.int64)
    if (stop == n_keys).all() and not start.any():
        return Full()
    offset = int(stop[0]) - 1
    causal_stop = offset + 1 + np.arange(len(stop))
    if offset < 0 or (stop != np.minimum(causal_stop, n_keys)).any():
        return None
    if not start.any():
        return Causal(offset)
    size = int(causal_stop[-1] - start[-1])
    if size < 1 or (start != np.maximum(causal_stop - size, 0)).any():
        return None
    return Window(size, offset)
