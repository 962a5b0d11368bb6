"""The backward kernel of `pallas_tpu`, where the method and the letters are explained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pathways_kernels.attention.block_sizes import BlockSizes
from pathways_kernels.attention.common import LogitTransform
from pathways_kernels.attention.pallas_tpu_parts import (
    MASK_VALUE,
    SpanBounds,
    block_specs,
    dot,
    key_block_slice,
    load_key_block_range,
    over_keys,
)

Array = jax.Array


def backward(
    q: Array,
    k: Array,
    v: Array,
    bounds: SpanBounds,
    ranges: Array,
    lse: Array,
    delta: Array,
    d_out: Array,
    *,
    transform: LogitTransform,
    sizes: BlockSizes,
    partial_keys: bool,
    interpret: Any,
) -> tuple[Array, Array, Array]:
    """Return the gradients of q, shaped as q, and of k and v, `[B, P, S, D]`; partial sums are float32.

    The arguments are those of `forward`, except that k and v are one segment; lse and delta float32 `[B, P, G, T]`.
    """
    B, P, G, T, D = q.shape
    K, S = k.shape[1:3]
    spec = block_specs(q, k, bounds, sizes, order=lambda p, b, i: (p, b, i, 0))
    d_keys = pl.BlockSpec((None, None, S, D), lambda p, b, *_: (b, p, 0, 0))
    d_q = jax.ShapeDtypeStruct(q.shape, jnp.float32 if partial_keys else q.dtype)
    d_k = jax.ShapeDtypeStruct((B, P, S, D), k.dtype if P == K else jnp.float32)
    return pl.pallas_call(
        lambda *refs: _kernel(*refs, bounds=bounds._replace(array=None), transform=transform, sizes=sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(P, B, T // sizes.queries),
            in_specs=[
                spec.queries,
                spec.keys,
                spec.keys,
                spec.bounds,
                spec.per_query,
                spec.per_query,
                spec.queries,
            ],
            out_specs=[spec.queries, d_keys, d_keys],
            scratch_shapes=[
                pltpu.VMEM((G, sizes.queries, D), jnp.float32),
                pltpu.VMEM((S, D), jnp.float32),
                pltpu.VMEM((S, D), jnp.float32),
            ],
        ),
        out_shape=[d_q, d_k, d_k],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=sizes.vmem_bytes
        ),
        name="interval_attention_backward",
        interpret=interpret,
    )(ranges.reshape(-1), q, k, v, bounds.array, lse, delta, d_out)


def _kernel(
    ranges_ref: Any,  # in scalar memory, [B · T / Tc · 4]
    q_ref: Any,  # [G, Tc, D]
    k_ref: Any,  # [S, D]
    v_ref: Any,
    bounds_ref: Any,  # [8, Tc], or None
    lse_ref: Any,  # [G, Tc]
    delta_ref: Any,
    d_out_ref: Any,  # [G, Tc, D]
    d_q_ref: Any,  # [G, Tc, D]
    d_k_ref: Any,  # [S, D]
    d_v_ref: Any,
    d_q_acc: Any,  # [G, Tc, D]
    d_k_acc: Any,  # [S, D]
    d_v_acc: Any,
    *,
    bounds: SpanBounds,
    transform: LogitTransform,
    sizes: BlockSizes,
) -> None:
    G, Tc, _ = q_ref.shape
    row, block = pl.program_id(1), pl.program_id(2)
    visited = load_key_block_range(ranges_ref, row, block, 0, sizes)

    @pl.when(block == 0)
    def begin() -> None:
        d_k_acc[...] = jnp.zeros_like(d_k_acc)
        d_v_acc[...] = jnp.zeros_like(d_v_acc)

    d_q_acc[...] = jnp.zeros_like(d_q_acc)

    def scores(j: Any, _: bool) -> list[tuple[Array, Array | None]]:
        return [transform.logits(dot(k_ref[key_block_slice(j, sizes), :], q_ref[g], transposed="y")) for g in range(G)]

    def absorb(j: Any, masked: bool, head_scores: list[tuple[Array, Array | None]]) -> None:
        keys = key_block_slice(j, sizes)
        if masked:
            key = lax.broadcasted_iota(jnp.int32, (sizes.keys, Tc), 0)
            start, stop = (x - j * sizes.keys for x in bounds.load(bounds_ref, block, Tc))
            allowed = (start <= key) & (key < stop)
        for g, (logits, slope) in enumerate(head_scores):
            q, d_out = q_ref[g], d_out_ref[g]
            if masked:
                logits = jnp.where(allowed, logits, MASK_VALUE)
            weights = jnp.exp2(logits - lse_ref[g : g + 1, :])
            d_v_acc[keys, :] += dot(weights.astype(d_out.dtype), d_out)
            d_logits = weights * (dot(v_ref[keys, :], d_out, transposed="y") - delta_ref[g : g + 1, :])
            if slope is not None:
                d_logits *= slope
            d_logits = d_logits.astype(q.dtype)
            d_k_acc[keys, :] += dot(d_logits, q)
            d_q_acc[g] += dot(d_logits, k_ref[keys, :], transposed="x")

    over_keys(visited, scores, absorb, max(1, sizes.unroll // G))  # the heads are already in straight-line code
    d_q_ref[...] = (d_q_acc[...] * transform.scale).astype(d_q_ref.dtype)

    @pl.when(block == pl.num_programs(2) - 1)
    def finish() -> None:
        d_k_ref[...] = (d_k_acc[...] * transform.scale).astype(d_k_ref.dtype)
        d_v_ref[...] = d_v_acc[...].astype(d_v_ref.dtype)
