"""Blocks of the chunked backend: their sizes per platform, splitting and merging of arrays, block products.

Shapes: B batch, R rows per block, T queries, Tc per block, S keys, Sc per block, H heads, K key heads, D head dim.
The queries of a block and the G = H / K heads that share a key head are one axis of length M = Tc·G.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pathways_kernels.attention.spans import Spans

Array = jax.Array


class BlockShape(NamedTuple):
    """The size of one step of the loops, and how it is written for the compiler."""

    rows: int  # R
    queries: int  # Tc
    keys: int  # Sc
    for_cpu: bool  # multiply in float32, hold every score array in memory once


def cpu_blocks(B: int, T: int, S: int, H: int) -> BlockShape:
    """Return blocks of about 2**17 scores (0.5 MiB), of as few rows as possible.

    Measured with XLA's CPU backend: it gives an elementwise operation to a second thread from 0.5 MiB on, and with more
    than 2**18 scores the arrays of one step no longer fit the second-level cache.
    """
    scores = 2**17
    side = 128 if H <= 16 else 64
    queries = _balanced_block(T, side)
    # Few queries (decoding) leave room for more keys; with many queries, finer blocks skip more.
    keys = _balanced_block(S, side if side <= T else max(side, scores // (H * queries)))
    rows = min(B, max(1, scores // (H * queries * keys)))
    return BlockShape(rows, queries, keys, for_cpu=True)


def accelerator_blocks(B: int, T: int, S: int, H: int) -> BlockShape:
    """Return blocks of all rows and 512 queries and keys: few, large, batched products in the inputs' own type."""
    del H
    return BlockShape(B, _balanced_block(T, 512), _balanced_block(S, 512), for_cpu=False)


def _balanced_block(length: int, limit: int) -> int:
    """Return a block length of at most `limit` that divides `length` into equal blocks with little padding."""
    if length <= limit:
        return length
    count = -(-length // limit)
    return -(-length // (count * 8)) * 8


def split_queries(x: Array, b: BlockShape, K: int) -> Array:
    """Split `[B, T, H, ...] -> [B/R, T/Tc, R, K, Tc·G, ...]`, padded with zeros."""
    x = _pad(_pad(x, 0, b.rows), 1, b.queries)
    B, T, H = x.shape[:3]
    x = x.reshape(B // b.rows, b.rows, T // b.queries, b.queries, K, H // K, *x.shape[3:])
    x = jnp.moveaxis(x, (2, 4), (1, 3))
    return x.reshape(*x.shape[:4], -1, *x.shape[6:])


def merge_queries(x: Array, b: BlockShape, B: int, T: int) -> Array:
    """Merge `[B/R, T/Tc, R, K, Tc·G, ...] -> [B, T, H, ...]`, the inverse of `split_queries`."""
    nB, nT, R, K, M = x.shape[:5]
    x = x.reshape(nB, nT, R, K, b.queries, M // b.queries, *x.shape[5:])
    x = jnp.moveaxis(x, (1, 3), (2, 4))
    return x.reshape(nB * R, nT * b.queries, -1, *x.shape[6:])[:B, :T]


def split_keys(x: Array, b: BlockShape) -> Array:
    """Split `[B, S, K, D] -> [B/R, S/Sc, R, K, Sc, D]`, padded with zeros."""
    x = _pad(_pad(x, 0, b.rows), 1, b.keys)
    B, S, K, D = x.shape
    x = x.reshape(B // b.rows, b.rows, S // b.keys, b.keys, K, D)
    return jnp.moveaxis(x, (2, 4), (1, 3))


def merge_keys(x: Array, B: int, S: int) -> Array:
    """Merge `[B/R, S/Sc, R, K, Sc, D] -> [B, S, K, D]`, the inverse of `split_keys`."""
    nB, nS, R, K, Sc, D = x.shape
    return jnp.moveaxis(x, (1, 3), (2, 4)).reshape(nB * R, nS * Sc, K, D)[:B, :S]


class BlockSpans(NamedTuple):
    """The spans of each block of queries, and the range of key blocks that contains all of its allowed pairs."""

    start: Array  # [B/R, T/Tc, R, 1, 1, Tc·G]
    stop: Array
    first: Array  # [B/R, T/Tc], in blocks of keys
    last: Array  # exclusive; <= first when no query of the block sees anything


def split_spans(spans: Spans, b: BlockShape, S: int, G: int) -> BlockSpans:
    """Split `[B, T]` spans over S keys like the queries. Padding and empty intervals see nothing."""
    sees = jnp.maximum(spans.start, 0) < jnp.minimum(spans.stop, S)
    # Counted from the end, "sees nothing" is 0 for both ends, which is also what padding is filled with.
    from_end = jnp.where(sees, S - jnp.maximum(spans.start, 0), 0)
    stop = jnp.where(sees, jnp.minimum(spans.stop, S), 0)
    from_end, stop = (split_queries(x[:, :, None], b, 1) for x in (from_end, stop))
    first = (S - from_end.max((2, 3, 4))) // b.keys
    last = -(-stop.max((2, 3, 4)) // b.keys)
    start, stop = (jnp.repeat(x, G, axis=-1)[..., None, :] for x in (S - from_end, stop))
    return BlockSpans(start, stop, first, last)


def allowed_mask(spans: BlockSpans, j: Any, keys: int) -> Array:
    """Return which keys of block j each query of one block sees, bool `[R, 1, Sc, M]`."""
    key = j * keys + lax.broadcasted_iota(jnp.int32, (1, 1, keys, 1), 2)
    return (spans.start <= key) & (key < spans.stop)


def dot(x: Array, y: Array) -> Array:
    """Multiply batches `[..., m, c] @ [..., c, n]`, accumulated in float32."""
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def transpose(x: Array) -> Array:
    """Transpose a batch of matrices."""
    return jnp.swapaxes(x, -1, -2)


def _pad(x: Array, axis: int, multiple: int) -> Array:
    padding = -x.shape[axis] % multiple
    return jnp.pad(x, [(0, padding if a == axis else 0) for a in range(x.ndim)]) if padding else x
