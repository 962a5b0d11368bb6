"""Which blocks of keys a block of queries must visit, and the transpose: what a kernel with dynamic spans loops over.

Shapes: B batch, T queries, Tc per block, n = T / Tc blocks of queries, S keys, Sc per block, m blocks of keys.

Both functions give ranges int32 `[B, blocks, 4]`: `(first, whole, ragged, last)`. The blocks to visit are `first` to
`last` (exclusive). Those of `whole` to `ragged` are allowed as a whole, for every pair, and need no mask.
`first <= whole <= ragged <= last`, all equal where there is nothing to visit.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pathways_kernels.attention.spans import Spans

Array = jax.Array


def padded_spans(spans: Spans, S: int, T: int) -> Spans:
    """`[B, T]` int32 spans within 0..S, of queries padded to T.

    Padding and empty intervals become (S, 0): no key is between them, and they win no minimum or maximum.
    """
    start, stop = jnp.maximum(jnp.asarray(spans.start), 0), jnp.minimum(jnp.asarray(spans.stop), S)
    sees = start < stop
    extra = ((0, 0), (0, T - start.shape[1]))
    start = jnp.pad(jnp.where(sees, start, S).astype(jnp.int32), extra, constant_values=S)
    stop = jnp.pad(jnp.where(sees, stop, 0).astype(jnp.int32), extra)
    return Spans(start, stop)


def of_keys(spans: Spans, Tc: int, Sc: int) -> Array:
    """For each block of queries, the key blocks `[B, n, 4]` it sees. `spans` as `padded_spans` gives them."""
    low_start, high_start, low_stop, high_stop = _extremes(spans, Tc)
    first, last = low_start // Sc, -(-high_stop // Sc)
    return _ordered(first, -(-high_start // Sc), low_stop // Sc, last)


def of_queries(spans: Spans, Tc: int, Sc: int, m: int) -> Array:
    """For each of m blocks of keys, the query blocks `[B, m, 4]` that see any of it.

    Exact, for blocks, when the spans' ends never decrease; else the least range around them, in which the mask rules.
    Costs n·m comparisons of blocks: the dense mask is never made.
    """
    low_start, high_start, low_stop, high_stop = (x[:, None] for x in _extremes(spans, Tc))  # [B, 1, n]
    begin = Sc * jnp.arange(m)[:, None]
    first, last, _ = _hull((low_start < begin + Sc) & (high_stop > begin))
    whole, ragged, count = _hull((high_start <= begin) & (low_stop >= begin + Sc))
    gapless = count == ragged - whole  # always, when the ends never decrease
    return _ordered(first, whole, jnp.where(gapless, ragged, whole), last)


def _extremes(spans: Spans, Tc: int) -> tuple[Array, ...]:
    """Least and greatest start, least and greatest stop of each block of queries, `[B, n]` each."""
    start, stop = (x.reshape(x.shape[0], -1, Tc) for x in spans)
    return start.min(-1), start.max(-1), stop.min(-1), stop.max(-1)


def _hull(chosen: Array) -> tuple[Array, Array, Array]:
    """First, last (exclusive) and number of the true entries of bool `[..., n]`; zeros where there is none."""
    n = chosen.shape[-1]
    last = jnp.where(chosen.any(-1), n - jnp.argmax(chosen[..., ::-1], -1), 0)
    return jnp.argmax(chosen, -1), last, chosen.sum(-1)


def _ordered(first: Array, whole: Array, ragged: Array, last: Array) -> Array:
    last = jnp.maximum(first, last)
    whole = jnp.clip(whole, first, last)
    return jnp.stack([first, whole, jnp.clip(ragged, whole, last), last], -1).astype(jnp.int32)
