"""The three kernels of `pallas_gpu`: forward, dq, and dk with dv. Each is one program of the grid.

Shapes: Tc queries per block, Sc keys per block, D head dim. `*_ref` are pointers; whole rows of keys (or queries) are
read block by block in a loop with the bounds in `ranges_ref` (int32 `[4]`, see `block_ranges`).

Logits and the log-sum-exp are in base 2 (see `LogitTransform`), since the hardware has only that exponential.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pathways_kernels.attention.common import LogitTransform

Array = jax.Array
Ref = Any

# The running maximum before the first block. Finite, so that no difference with it is NaN, and below every logit.
INITIAL_MAX = -1e38


def forward_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, start_ref: Ref, stop_ref: Ref, ranges_ref: Ref, out_ref: Ref, lse_ref: Ref,
    *, transform: LogitTransform, Sc: int,
) -> None:  # fmt: skip
    """Run FlashAttention-2, algorithm 1, for one block of queries `[Tc, D]` of one head, over keys `[S, D]`.

    Writes the output `[Tc, D]` and the base-2 log-sum-exp `[Tc]`; both 0 if a query sees nothing.
    """
    q, start, stop = q_ref[...], start_ref[...], stop_ref[...]

    def key_block(j: Any, carry: tuple[Array, Array, Array], masked: bool) -> tuple[Array, Array, Array]:
        maximum, total, acc = carry
        keys = pl.ds(j * Sc, Sc)
        logits, _ = transform.logits(_dot_t(q, k_ref[keys, :]))
        if masked:
            logits = jnp.where(
                _allowed_mask(start[:, None], stop[:, None], j * Sc + _iota(1, logits)), logits, -jnp.inf
            )
        new_maximum = jnp.maximum(maximum, logits.max(1))
        weights = jnp.exp2(logits - new_maximum[:, None])
        rescale = jnp.exp2(maximum - new_maximum)
        v = v_ref[keys, :]
        acc = acc * rescale[:, None] + _dot(weights.astype(v.dtype), v)
        return new_maximum, total * rescale + weights.sum(1), acc

    Tc, D = q.shape
    zero = jnp.zeros(Tc, jnp.float32)
    maximum, total, acc = _loop_over_blocks(
        ranges_ref, key_block, (zero + INITIAL_MAX, zero, jnp.zeros((Tc, D), jnp.float32))
    )
    denominator = jnp.where(total == 0, 1, total)
    out_ref[...] = (acc / denominator[:, None]).astype(out_ref.dtype)
    lse_ref[...] = jnp.where(total == 0, 0, maximum + jnp.log2(denominator))


def dq_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, start_ref: Ref, stop_ref: Ref, ranges_ref: Ref, lse_ref: Ref, delta_ref: Ref,
    d_out_ref: Ref, d_q_ref: Ref, *, transform: LogitTransform, Sc: int,
) -> None:  # fmt: skip
    """Compute the gradient `[Tc, D]` of one block of queries of one head: algorithm 2, one row of its blocks."""
    q, d_out, start, stop = q_ref[...], d_out_ref[...], start_ref[...], stop_ref[...]
    lse, delta = lse_ref[...], delta_ref[...]

    def key_block(j: Any, d_q: Array, masked: bool) -> Array:
        keys = pl.ds(j * Sc, Sc)
        k = k_ref[keys, :]
        logits, slope = transform.logits(_dot_t(q, k))
        if masked:
            logits = jnp.where(
                _allowed_mask(start[:, None], stop[:, None], j * Sc + _iota(1, logits)), logits, -jnp.inf
            )
        weights = jnp.exp2(logits - lse[:, None])
        d_weights = _dot_t(d_out, v_ref[keys, :])
        d_logits = weights * (d_weights - delta[:, None])
        if slope is not None:
            d_logits *= slope
        return d_q + _dot(d_logits.astype(k.dtype), k)

    d_q = _loop_over_blocks(ranges_ref, key_block, jnp.zeros(q.shape, jnp.float32))
    d_q_ref[...] = (d_q * transform.scale).astype(d_q_ref.dtype)


def dkv_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, start_ref: Ref, stop_ref: Ref, ranges_ref: Ref, lse_ref: Ref, delta_ref: Ref,
    d_out_ref: Ref, d_k_ref: Ref, d_v_ref: Ref, *, transform: LogitTransform, Tc: int,
) -> None:  # fmt: skip
    """Compute the gradients `[Sc, D]` of one block of keys and values: algorithm 2, one column of its blocks.

    They are summed over the given query heads: q and d_out `[T, heads, D]`, lse and delta `[heads, T]`. Scores are
    transposed, `[Sc, Tc]`, so that no product has to transpose a computed operand.
    """
    k, v = k_ref[...], v_ref[...]
    first_key = pl.program_id(0) * k.shape[0]

    def head(h: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        def query_block(i: Any, carry: tuple[Array, Array], masked: bool) -> tuple[Array, Array]:
            d_k, d_v = carry
            queries = pl.ds(i * Tc, Tc)
            q, d_out = q_ref[queries, h, :], d_out_ref[queries, h, :]
            logits, slope = transform.logits(_dot_t(k, q))
            if masked:
                start, stop = start_ref[queries], stop_ref[queries]
                logits = jnp.where(
                    _allowed_mask(start[None, :], stop[None, :], first_key + _iota(0, logits)), logits, -jnp.inf
                )
            weights = jnp.exp2(logits - lse_ref[h, queries][None, :])
            d_v += _dot(weights.astype(d_out.dtype), d_out)
            d_weights = _dot_t(v, d_out)
            d_logits = weights * (d_weights - delta_ref[h, queries][None, :])
            if slope is not None:
                d_logits *= slope
            return d_k + _dot(d_logits.astype(q.dtype), q), d_v

        return _loop_over_blocks(ranges_ref, query_block, carry)

    zero = jnp.zeros(k.shape, jnp.float32)
    heads = q_ref.shape[1]
    d_k, d_v = head(0, (zero, zero)) if heads == 1 else lax.fori_loop(0, heads, head, (zero, zero))
    d_k_ref[...] = (d_k * transform.scale).astype(d_k_ref.dtype)
    d_v_ref[...] = d_v.astype(d_v_ref.dtype)


def _loop_over_blocks(ranges_ref: Ref, block: Callable[[Any, Any, bool], Any], carry: Any) -> Any:
    """Run `block(index, carry, masked)` over a range, in three loops: full blocks do not pay for a mask."""
    start, full_start, full_stop, stop = (ranges_ref[i] for i in range(4))
    carry = lax.fori_loop(start, full_start, lambda i, carry: block(i, carry, True), carry)
    carry = lax.fori_loop(full_start, full_stop, lambda i, carry: block(i, carry, False), carry)
    return lax.fori_loop(full_stop, stop, lambda i, carry: block(i, carry, True), carry)


def _allowed_mask(start: Array, stop: Array, key: Array) -> Array:
    return (start <= key) & (key < stop)


def _iota(axis: int, scores: Array) -> Array:
    return lax.broadcasted_iota(jnp.int32, scores.shape, axis)


def _dot(x: Array, y: Array) -> Array:
    """Multiply `[m, c] @ [c, n]`, accumulated in float32."""
    return lax.dot_general(x, y, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _dot_t(x: Array, y: Array) -> Array:
    """Multiply `[m, c] @ [n, c].T`, accumulated in float32."""
    return lax.dot_general(x, y, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
