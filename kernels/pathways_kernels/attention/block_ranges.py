"""Block ranges: the blocks of keys that a block of queries must visit, and the transpose. Kernels loop over these.

Shapes: B batch, T queries, Tc per block, n = T / Tc blocks of queries, S keys, Sc per block, m blocks of keys.

Both functions return ranges, int32 `[B, blocks, 4]`: `(start, full_start, full_stop, stop)`. The blocks to visit are
`start` to `stop` (exclusive). Those from `full_start` to `full_stop` are full blocks, in which every pair is allowed:
they need no mask. The others are partial. `start <= full_start <= full_stop <= stop`, all equal if there is nothing to
visit.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pathways_kernels.attention.spans import Spans

Array = jax.Array


def padded_spans(spans: Spans, S: int, T: int) -> Spans:
    """Clip spans to 0..S and pad the queries to T: int32 `[B, T]`.

    Padding and empty intervals become (S, 0): they contain no key, and affect no minimum or maximum.
    """
    start, stop = jnp.maximum(jnp.asarray(spans.start), 0), jnp.minimum(jnp.asarray(spans.stop), S)
    sees = start < stop
    padding = ((0, 0), (0, T - start.shape[1]))
    start = jnp.pad(jnp.where(sees, start, S).astype(jnp.int32), padding, constant_values=S)
    stop = jnp.pad(jnp.where(sees, stop, 0).astype(jnp.int32), padding)
    return Spans(start, stop)


def key_block_ranges(spans: Spans, Tc: int, Sc: int) -> Array:
    """Return the range of key blocks `[B, n, 4]` that each block of queries sees. `spans` are from `padded_spans`."""
    min_start, max_start, min_stop, max_stop = _extremes(spans, Tc)
    start, stop = min_start // Sc, -(-max_stop // Sc)
    return _ordered(start, -(-max_start // Sc), min_stop // Sc, stop)


def query_block_ranges(spans: Spans, Tc: int, Sc: int, m: int) -> Array:
    """Return the range of query blocks `[B, m, 4]` that see any key of each of m blocks of keys.

    Exact, in units of blocks, if the spans' ends never decrease; otherwise the smallest range around the blocks, in
    which the mask decides. Costs n·m comparisons of blocks: the dense mask is never built.
    """
    min_start, max_start, min_stop, max_stop = (x[:, None] for x in _extremes(spans, Tc))  # [B, 1, n]
    first_key = Sc * jnp.arange(m)[:, None]
    start, stop, _ = _hull((min_start < first_key + Sc) & (max_stop > first_key))
    full_start, full_stop, count = _hull((max_start <= first_key) & (min_stop >= first_key + Sc))
    gapless = count == full_stop - full_start  # always, if the ends never decrease
    return _ordered(start, full_start, jnp.where(gapless, full_stop, full_start), stop)


def _extremes(spans: Spans, Tc: int) -> tuple[Array, ...]:
    """Return the smallest and largest start, and the smallest and largest stop, of each block of queries, `[B, n]`."""
    start, stop = (x.reshape(x.shape[0], -1, Tc) for x in spans)
    return start.min(-1), start.max(-1), stop.min(-1), stop.max(-1)


def _hull(mask: Array) -> tuple[Array, Array, Array]:
    """Return start, stop and number of the true entries of bool `[..., n]`; zeros if there are none."""
    n = mask.shape[-1]
    stop = jnp.where(mask.any(-1), n - jnp.argmax(mask[..., ::-1], -1), 0)
    return jnp.argmax(mask, -1), stop, mask.sum(-1)


def _ordered(start: Array, full_start: Array, full_stop: Array, stop: Array) -> Array:
    """Stack the four ends, clipped so that they never decrease."""
    stop = jnp.maximum(start, stop)
    full_start = jnp.clip(full_start, start, stop)
    return jnp.stack([start, full_start, jnp.clip(full_stop, full_start, stop), stop], -1).astype(jnp.int32)
