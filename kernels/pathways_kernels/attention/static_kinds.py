"""Spans that are known while tracing, recognised as one of the kinds that libraries have fast paths for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pathways_kernels.attention.spans import Spans


class Full(NamedTuple):
    """Every query sees every key."""


class Causal(NamedTuple):
    """Query i sees the keys up to `offset + i`, which is its own place."""

    offset: int


class Window(NamedTuple):
    """Causal, and no more than the last `size` keys."""

    size: int
    offset: int


Kind = Full | Causal | Window


def static_kind(spans: Spans, n_keys: int) -> Kind | None:
    """What `spans` are, from their values; None if another kind, or not NumPy (not known while tracing).

    The constructors of `spans` give NumPy unless an argument is a JAX array. Spans that stick out at either end are
    taken as cut off; a window that no query's past fills is causal, and causal spans that show every key are full.
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
    after = offset + 1 + np.arange(len(stop))
    if offset < 0 or (stop != np.minimum(after, n_keys)).any():
        return None
    if not start.any():
        return Causal(offset)
    size = int(after[-1] - start[-1])
    if size < 1 or (start != np.maximum(after - size, 0)).any():
        return None
    return Window(size, offset)
