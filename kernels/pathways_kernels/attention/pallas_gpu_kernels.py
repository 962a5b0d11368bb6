"""The three kernels of `pallas_gpu`: forward, dq, and dk with dv. Each is one program of the grid.

Shapes: Tc queries per block, Sc keys per block, D head dim. `*_ref` are pointers; whole rows of keys (or queries) are
read block by block in a loop, whose bounds `ranges_ref` (int32 `[4]`, see `block_ranges`) brings along.

Logits are kept in base 2 (see `LogitTransform`), as the hardware has only that exponential; so is the log-sum-exp.
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

# The running maximum before anything was seen. Finite, so that no difference of it is a NaN, and below every logit.
LOWEST = -1e38


def forward_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, start_ref: Ref, stop_ref: Ref, ranges_ref: Ref, out_ref: Ref, lse_ref: Ref,
    *, transform: LogitTransform, Sc: int,
) -> None:  # fmt: skip
    """FlashAttention-2, algorithm 1, for one block of queries `[Tc, D]` of one head, over keys `[S, D]`.

    Writes the output `[Tc, D]` and the base-2 log-sum-exp `[Tc]`; both 0 where a query sees nothing.
    """
    q, start, stop = q_ref[...], start_ref[...], stop_ref[...]

    def key_block(j: Any, carry: tuple[Array, Array, Array], masked: bool) -> tuple[Array, Array, Array]:
        top, total, acc = carry
        keys = pl.ds(j * Sc, Sc)
        logits, _ = transform.logits(_dot_t(q, k_ref[keys, :]))
        if masked:
            logits = jnp.where(_allowed(start[:, None], stop[:, None], j * Sc + _along(1, logits)), logits, -jnp.inf)
        new_top = jnp.maximum(top, logits.max(1))
        weights = jnp.exp2(logits - new_top[:, None])
        fade = jnp.exp2(top - new_top)
        v = v_ref[keys, :]
        acc = acc * fade[:, None] + _dot(weights.astype(v.dtype), v)
        return new_top, total * fade + weights.sum(1), acc

    Tc, D = q.shape
    zero = jnp.zeros(Tc, jnp.float32)
    top, total, acc = _visit(ranges_ref, key_block, (zero + LOWEST, zero, jnp.zeros((Tc, D), jnp.float32)))
    some = jnp.where(total == 0, 1, total)
    out_ref[...] = (acc / some[:, None]).astype(out_ref.dtype)
    lse_ref[...] = jnp.where(total == 0, 0, top + jnp.log2(some))


def dq_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, start_ref: Ref, stop_ref: Ref, ranges_ref: Ref, lse_ref: Ref, delta_ref: Ref,
    d_out_ref: Ref, d_q_ref: Ref, *, transform: LogitTransform, Sc: int,
) -> None:  # fmt: skip
    """The gradient `[Tc, D]` of one block of queries of one head: algorithm 2, one row of its blocks."""
    q, d_out, start, stop = q_ref[...], d_out_ref[...], start_ref[...], stop_ref[...]
    lse, delta = lse_ref[...], delta_ref[...]

    def key_block(j: Any, d_q: Array, masked: bool) -> Array:
        keys = pl.ds(j * Sc, Sc)
        k = k_ref[keys, :]
        logits, slope = transform.logits(_dot_t(q, k))
        if masked:
            logits = jnp.where(_allowed(start[:, None], stop[:, None], j * Sc + _along(1, logits)), logits, -jnp.inf)
        weights = jnp.exp2(logits - lse[:, None])
        d_weights = _dot_t(d_out, v_ref[keys, :])
        d_logits = weights * (d_weights - delta[:, None])
        if slope is not None:
            d_logits *= slope
        return d_q + _dot(d_logits.astype(k.dtype), k)

    d_q = _visit(ranges_ref, key_block, jnp.zeros(q.shape, jnp.float32))
    d_q_ref[...] = (d_q * transform.scale).astype(d_q_ref.dtype)


def dkv_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, start_ref: Ref, stop_ref: Ref, ranges_ref: Ref, lse_ref: Ref, delta_ref: Ref,
    d_out_ref: Ref, d_k_ref: Ref, d_v_ref: Ref, *, transform: LogitTransform, Tc: int,
) -> None:  # fmt: skip
    """The gradients `[Sc, D]` of one block of keys and values: algorithm 2, one column of its blocks.

    Summed over the query heads that are given, q and d_out `[T, heads, D]`, lse and delta `[heads, T]`. Scores are
    transposed, `[Sc, Tc]`: no product then has a computed operand to transpose.
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
                    _allowed(start[None, :], stop[None, :], first_key + _along(0, logits)), logits, -jnp.inf
                )
            weights = jnp.exp2(logits - lse_ref[h, queries][None, :])
            d_v += _dot(weights.astype(d_out.dtype), d_out)
            d_weights = _dot_t(v, d_out)
            d_logits = weights * (d_weights - delta_ref[h, queries][None, :])
            if slope is not None:
                d_logits *= slope
            return d_k + _dot(d_logits.astype(q.dtype), q), d_v

        return _visit(ranges_ref, query_block, carry)

    zero = jnp.zeros(k.shape, jnp.float32)
    heads = q_ref.shape[1]
    d_k, d_v = head(0, (zero, zero)) if heads == 1 else lax.fori_loop(0, heads, head, (zero, zero))
    d_k_ref[...] = (d_k * transform.scale).astype(d_k_ref.dtype)
    d_v_ref[...] = d_v.astype(d_v_ref.dtype)


def _visit(ranges_ref: Ref, block: Callable[[Any, Any, bool], Any], carry: Any) -> Any:
    """Run `block(index, carry, masked)` over a range: three loops, so that whole blocks pay for no mask."""
    first, whole, ragged, last = (ranges_ref[i] for i in range(4))
    carry = lax.fori_loop(first, whole, lambda i, carry: block(i, carry, True), carry)
    carry = lax.fori_loop(whole, ragged, lambda i, carry: block(i, carry, False), carry)
    return lax.fori_loop(ragged, last, lambda i, carry: block(i, carry, True), carry)


def _allowed(start: Array, stop: Array, key: Array) -> Array:
    return (start <= key) & (key < stop)


def _along(axis: int, scores: Array) -> Array:
    return lax.broadcasted_iota(jnp.int32, scores.shape, axis)


def _dot(x: Array, y: Array) -> Array:
    """`[m, c] @ [c, n]`, accumulated in float32."""
    return lax.dot_general(x, y, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _dot_t(x: Array, y: Array) -> Array:
    """`[m, c] @ [n, c].T`, accumulated in float32."""
    return lax.dot_general(x, y, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
