"""The attention mask of this project: an interval of keys per query.

The constructors compute in NumPy, or in JAX if one of their arrays is a JAX array. All of them return spans whose
starts and stops never decrease from one query to the next, and `intersect` preserves that property.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Spans(NamedTuple):
    """Query i of row b may attend to the keys j with `start[b, i] <= j < stop[b, i]`.

    Two int32 arrays `[batch, query]` (NumPy or JAX); other libraries call them `k_start` and `k_end`. An empty interval
    (`stop <= start`) attends to nothing. Intervals express causal masks, packed documents, sliding windows, prefix LMs
    and all their intersections exactly. Packed documents of 3 and 2 tokens, causal:

        key     0 1 2 3 4    start  stop
        query 0 x            0      1
              1 x x          0      2
              2 x x x        0      3
              3       x      3      4
              4       x x    3      5
    """

    start: Any
    stop: Any


def full(batch: int, length: int, n_keys: int | None = None) -> Spans:
    """Return spans in which every query sees all `n_keys` keys (None: as many as queries)."""
    shape = _shape(batch, length)
    keys = length if n_keys is None else n_keys
    return Spans(np.zeros(shape, np.int32), np.full(shape, keys, np.int32))


def causal(batch: int, length: int, offset: Any = 0) -> Spans:
    """Return causal spans: query i is at key `offset + i`, and sees it and all keys before it.

    `offset`: a scalar, or one per row `[batch]`; above 0 if a cache holds earlier keys (decoding).
    """
    positions = _positions(batch, length, offset)
    xp = _namespace(positions)
    return Spans(xp.zeros_like(positions), positions + 1)


def window(batch: int, length: int, size: int, offset: Any = 0) -> Spans:
    """Return a sliding window: causal, and each query sees only the last `size` keys, including its own."""
    if size < 1:
        raise ValueError(f"a window of {size} keys is empty; expected size >= 1.")
    spans = causal(batch, length, offset)
    xp = _namespace(spans.stop)
    return Spans(xp.maximum(spans.stop - size, 0), spans.stop)


def from_document_starts(starts: Any, *, bidirectional: bool = False) -> Spans:
    """Return the spans of packed documents, given where they begin: `starts` is boolean `[batch, query]`.

    A query sees its own document up to and including itself, or all of it if `bidirectional`. The tokens before the
    first start of a row are a document too (a cut one).
    """
    xp = _namespace(starts)
    starts = xp.asarray(starts)
    if starts.ndim != 2 or starts.dtype != bool:
        raise ValueError(f"document starts are {starts.dtype}{list(starts.shape)}; expected bool [batch, query].")
    batch, length = starts.shape
    index = xp.broadcast_to(xp.arange(length, dtype=xp.int32), (batch, length))
    start = _running_max(xp.where(starts, index, 0))
    if not bidirectional:
        return Spans(start, index + 1)
    # The beginning of the next document: the smallest start to the right of a query, without the query itself.
    end = xp.full((batch, 1), length, xp.int32)
    after = xp.concatenate([xp.where(starts, index, end)[:, 1:], end], axis=1)
    return Spans(start, -_running_max(-after[:, ::-1])[:, ::-1])


def from_segments(segments: Any, *, bidirectional: bool = False) -> Spans:
    """Return the spans of packed documents, given an id per position: `segments` is integer `[batch, query]`.

    A document is a run of equal ids. See `from_document_starts`.
    """
    xp = _namespace(segments)
    segments = xp.asarray(segments)
    if segments.ndim != 2 or not xp.issubdtype(segments.dtype, xp.integer):
        raise ValueError(f"segments are {segments.dtype}{list(segments.shape)}; expected integers [batch, query].")
    first = xp.ones((segments.shape[0], 1), bool)
    starts = xp.concatenate([first, segments[:, 1:] != segments[:, :-1]], axis=1)
    return from_document_starts(starts, bidirectional=bidirectional)


def prefix(documents: Spans, prefix_length: Any) -> Spans:
    """Return prefix-LM spans: a query sees all of its document's prefix, and the tokens after the prefix causally.

    Args:
        documents: bidirectional spans, the most that a query can see: `full(...)` for one document per row, or
            `from_segments(..., bidirectional=True)` for packed ones.
        prefix_length: `[batch]`, one per row, or `[batch, query]`, that of each query's document.
    """
    xp = _namespace(documents.start, documents.stop, prefix_length)
    check_spans(documents, *documents.start.shape)
    prefix_length = xp.asarray(prefix_length, xp.int32)
    batch, length = documents.start.shape
    if prefix_length.shape not in ((batch,), (batch, length)):
        raise ValueError(f"prefix_length is {list(prefix_length.shape)}; expected [{batch}] or [{batch}, {length}].")
    if prefix_length.ndim == 1:
        prefix_length = prefix_length[:, None]
    index = xp.arange(length, dtype=xp.int32)
    stop = xp.maximum(index + 1, documents.start + prefix_length)
    return Spans(xp.asarray(documents.start), xp.minimum(documents.stop, stop))


def intersect(a: Spans, b: Spans) -> Spans:
    """Return spans in which a query sees the keys that it sees in both. Rows broadcast: batch 1 fits any batch."""
    xp = _namespace(*a, *b)
    return Spans(xp.maximum(a.start, b.start), xp.minimum(a.stop, b.stop))


def dense_mask(spans: Spans, n_keys: int) -> Any:
    """Return the dense mask, bool `[batch, query, n_keys]`: for references and tests, quadratic in memory."""
    xp = _namespace(*spans)
    key = xp.arange(n_keys, dtype=xp.int32)
    return (spans.start[..., None] <= key) & (key < spans.stop[..., None])


def check_spans(spans: Spans, batch: int, queries: int) -> None:
    """Raise ValueError unless `spans` holds two integer arrays `[batch, queries]`."""
    for name, x in zip(spans._fields, spans, strict=True):
        shape, dtype = np.shape(x), jnp.result_type(x)
        if shape != (batch, queries) or not jnp.issubdtype(dtype, jnp.integer):
            raise ValueError(f"spans.{name} is {dtype}{list(shape)}; expected int32[{batch}, {queries}].")


def _shape(batch: int, length: int) -> tuple[int, int]:
    if batch < 1 or length < 1:
        raise ValueError(f"spans of shape [{batch}, {length}] are empty; expected batch >= 1 and length >= 1.")
    return batch, length


def _positions(batch: int, length: int, offset: Any) -> Any:
    xp = _namespace(offset)
    shape = _shape(batch, length)
    offset = xp.asarray(offset, xp.int32)
    if offset.shape not in ((), (batch,)):
        raise ValueError(f"offset is {list(offset.shape)}; expected a scalar or [{batch}].")
    return xp.broadcast_to(offset[..., None] + xp.arange(length, dtype=xp.int32), shape)


def _running_max(x: Any) -> Any:
    return jax.lax.cummax(x, axis=1) if isinstance(x, jax.Array) else np.maximum.accumulate(x, axis=1)


def _namespace(*arrays: Any) -> ModuleType:
    return jnp if any(isinstance(x, jax.Array) for x in arrays) else np
