"""What the chunked backend is made of: block sizes per platform, arrays cut into blocks and joined, block products.

Shapes: B batch, R rows per block, T queries, Tc per block, S keys, Sc per block, H heads, K key heads, D head dim.
The queries of a block and the G = H / K heads that share a key head lie on one axis of length M = Tc·G.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pathways_kernels.attention.spans import Spans

Array = jax.Array


class Blocks(NamedTuple):
    """How much work one step of the loops does, and how it is written for the compiler."""

    rows: int  # R
    queries: int  # Tc
    keys: int  # Sc
    for_cpu: bool  # multiply in float32, hold every score array in memory once


def cpu_blocks(B: int, T: int, S: int, H: int) -> Blocks:
    """Blocks of about 2**17 scores (0.5 MiB), from as few rows as give that many.

    Measured with XLA's CPU backend: it gives an elementwise operation to a second thread from 0.5 MiB on, and beyond
    2**18 scores the arrays of one step no longer fit the second-level cache.
    """
    scores = 2**17
    side = 128 if H <= 16 else 64
    queries = _even(T, side)
    # Few queries (decoding) leave room for more keys; with many, finer blocks skip more.
    keys = _even(S, side if side <= T else max(side, scores // (H * queries)))
    rows = min(B, max(1, scores // (H * queries * keys)))
    return Blocks(rows, queries, keys, for_cpu=True)


def accelerator_blocks(B: int, T: int, S: int, H: int) -> Blocks:
    """All rows at once and blocks of 512: few, large, batched products in the inputs' own type."""
    del H
    return Blocks(B, _even(T, 512), _even(S, 512), for_cpu=False)


def _even(length: int, limit: int) -> int:
    """A block length of at most `limit` that cuts `length` into equal blocks with little padding."""
    if length <= limit:
        return length
    count = -(-length // limit)
    return -(-length // (count * 8)) * 8


def cut_queries(x: Array, b: Blocks, K: int) -> Array:
    """`[B, T, H, ...] -> [B/R, T/Tc, R, K, Tc·G, ...]`, padded with zeros."""
    x = _pad(_pad(x, 0, b.rows), 1, b.queries)
    B, T, H = x.shape[:3]
    x = x.reshape(B // b.rows, b.rows, T // b.queries, b.queries, K, H // K, *x.shape[3:])
    x = jnp.moveaxis(x, (2, 4), (1, 3))
    return x.reshape(*x.shape[:4], -1, *x.shape[6:])


def join_queries(x: Array, b: Blocks, B: int, T: int) -> Array:
    """`[B/R, T/Tc, R, K, Tc·G, ...] -> [B, T, H, ...]`: undoes `cut_queries`."""
    nB, nT, R, K, M = x.shape[:5]
    x = x.reshape(nB, nT, R, K, b.queries, M // b.queries, *x.shape[5:])
    x = jnp.moveaxis(x, (1, 3), (2, 4))
    return x.reshape(nB * R, nT * b.queries, -1, *x.shape[6:])[:B, :T]


def cut_keys(x: Array, b: Blocks) -> Array:
    """`[B, S, K, D] -> [B/R, S/Sc, R, K, Sc, D]`, padded with zeros."""
    x = _pad(_pad(x, 0, b.rows), 1, b.keys)
    B, S, K, D = x.shape
    x = x.reshape(B // b.rows, b.rows, S // b.keys, b.keys, K, D)
    return jnp.moveaxis(x, (2, 4), (1, 3))


def join_keys(x: Array, B: int, S: int) -> Array:
    """`[B/R, S/Sc, R, K, Sc, D] -> [B, S, K, D]`: undoes `cut_keys`."""
    nB, nS, R, K, Sc, D = x.shape
    return jnp.moveaxis(x, (1, 3), (2, 4)).reshape(nB * R, nS * Sc, K, D)[:B, :S]


class CutSpans(NamedTuple):
    """Spans per block of queries, and the range of key blocks that holds every allowed pair of it."""

    start: Array  # [B/R, T/Tc, R, 1, 1, Tc·G]
    stop: Array
    first: Array  # [B/R, T/Tc], in blocks of keys
    last: Array  # exclusive; <= first when no query of the block sees anything


def cut_spans(spans: Spans, b: Blocks, S: int, G: int) -> CutSpans:
    """Cut `[B, T]` spans over S keys as `cut_queries` cuts queries. Padding sees nothing, nor do empty intervals."""
    sees = jnp.maximum(spans.start, 0) < jnp.minimum(spans.stop, S)
    # Counted from the end, "sees nothing" is 0 for both ends, which is also what padding is filled with.
    from_end = jnp.where(sees, S - jnp.maximum(spans.start, 0), 0)
    stop = jnp.where(sees, jnp.minimum(spans.stop, S), 0)
    from_end, stop = (cut_queries(x[:, :, None], b, 1) for x in (from_end, stop))
    first = (S - from_end.max((2, 3, 4))) // b.keys
    last = -(-stop.max((2, 3, 4)) // b.keys)
    start, stop = (jnp.repeat(x, G, axis=-1)[..., None, :] for x in (S - from_end, stop))
    return CutSpans(start, stop, first, last)


def allowed(seen: CutSpans, j: Any, keys: int) -> Array:
    """Which keys of block j each query sees, bool `[R, 1, Sc, M]`, for the spans of one block of queries."""
    key = j * keys + lax.broadcasted_iota(jnp.int32, (1, 1, keys, 1), 2)
    return (seen.start <= key) & (key < seen.stop)


def dot(x: Array, y: Array) -> Array:
    """Batched `[..., m, c] @ [..., c, n]`, accumulated in float32."""
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def t(x: Array) -> Array:
    """The transposes of a batch of matrices."""
    return jnp.swapaxes(x, -1, -2)


def _pad(x: Array, axis: int, multiple: int) -> Array:
    extra = -x.shape[axis] % multiple
    return jnp.pad(x, [(0, extra if a == axis else 0) for a in range(x.ndim)]) if extra else x
