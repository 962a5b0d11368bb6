"""The one attention mask of this project: an interval of keys per query."""

from __future__ import annotations

from typing import Any, NamedTuple


class Spans(NamedTuple):
    """Query i of row b may attend to the keys j with `start[b, i] <= j < stop[b, i]`.

    Two int32 arrays `[batch, query]` (NumPy or JAX). An empty interval (`stop <= start`) attends to nothing.
    This is exactly causal, packed documents, sliding window, prefix-LM and every intersection of them.
    """

    start: Any
    stop: Any
