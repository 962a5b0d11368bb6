"""The forward kernel of `pallas_tpu`, where the method and the letters are explained."""

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
    LANES,
    MASK_VALUE,
    SpanBounds,
    block_specs,
    dot,
    key_block_slice,
    load_key_block_range,
    over_keys,
)

Array = jax.Array


def forward(
    q: Array,
    k: Array,
    v: Array,
    bounds: SpanBounds,
    ranges: Array,
    *,
    transform: LogitTransform,
    sizes: BlockSizes,
    interpret: Any,
) -> tuple[Array, Array]:
    """Return the output, shaped as q, and the base-2 log-sum-exp, float32 `[B, P, G, T]` (0 if a query sees nothing).

    q `[B, P, G, T, D]`; k, v `[B, K, S, D]`; ranges `[B, T / Tc, 4]`: `block_ranges.key_block_ranges`.
    """
    B, P, G, T, D = q.shape
    grid = (P, B, T // sizes.queries, k.shape[2] // sizes.segment)
    spec = block_specs(q, k, bounds, sizes, order=lambda p, b, i, s: (p, b, i, s))
    rows = G * sizes.queries
    return pl.pallas_call(
        lambda *refs: _kernel(*refs, bounds=bounds._replace(array=None), transform=transform, sizes=sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[spec.queries, spec.keys, spec.keys, spec.bounds],
            out_specs=[spec.queries, spec.per_query],
            scratch_shapes=[
                pltpu.VMEM((rows, LANES), jnp.float32),
                pltpu.VMEM((rows, LANES), jnp.float32),
                pltpu.VMEM((rows, D), jnp.float32),
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct(q.shape[:-1], jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=sizes.vmem_bytes
        ),
        name="interval_attention_forward",
        interpret=interpret,
    )(ranges.reshape(-1), q, k, v, bounds.array)


def _kernel(
    ranges_ref: Any,  # in scalar memory, [B · T / Tc · 4]
    q_ref: Any,  # [G, Tc, D]
    k_ref: Any,  # [Ss, D]
    v_ref: Any,
    bounds_ref: Any,  # [8, Tc], or None
    out_ref: Any,  # [G, Tc, D]
    lse_ref: Any,  # [G, Tc]
    maximum_ref: Any,  # [G·Tc, LANES], the running maximum of a query's logits, in every lane
    total_ref: Any,  # [G·Tc, LANES], the running sum of its weights, spread over the lanes
    acc_ref: Any,  # [G·Tc, D]
    *,
    bounds: SpanBounds,
    transform: LogitTransform,
    sizes: BlockSizes,
) -> None:
    G, Tc, D = q_ref.shape
    row, block, segment = (pl.program_id(axis) for axis in (1, 2, 3))
    visited = load_key_block_range(ranges_ref, row, block, segment, sizes)

    @pl.when(segment == 0)
    def begin() -> None:
        maximum_ref[...] = jnp.full_like(maximum_ref, MASK_VALUE)
        total_ref[...] = jnp.zeros_like(total_ref)
        acc_ref[...] = jnp.zeros_like(acc_ref)

    def scores(j: Any, masked: bool) -> Array:
        logits = transform.logits(
            dot(q_ref[...].reshape(G * Tc, D), k_ref[key_block_slice(j, sizes), :], transposed="y")
        )[0]
        if not masked:
            return logits
        # The bounds relative to this block's first key, in every lane, minus the lane's number.
        lane_key = segment * sizes.segment + j * sizes.keys + lax.broadcasted_iota(jnp.int32, (Tc, LANES), 1)
        rows = bounds.load(bounds_ref, block, Tc)
        return _mask(logits, *(jnp.broadcast_to(x, (LANES, Tc)).T - lane_key for x in rows))

    def absorb(j: Any, _: bool, logits: Array) -> None:
        maximum = jnp.maximum(maximum_ref[...], logits.max(1, keepdims=True))
        weights = jnp.exp2(logits - jnp.tile(maximum, (1, sizes.keys // LANES)))
        rescale = jnp.exp2(maximum_ref[...] - maximum)
        total_ref[...] = total_ref[...] * rescale + sum(weights[:, i : i + LANES] for i in range(0, sizes.keys, LANES))
        values = dot(weights.astype(v_ref.dtype), v_ref[key_block_slice(j, sizes), :])
        acc_ref[...] = acc_ref[...] * _across(rescale, D) + values
        maximum_ref[...] = maximum

    over_keys(visited, scores, absorb, sizes.unroll)

    @pl.when(segment == pl.num_programs(3) - 1)
    def finish() -> None:
        sees_nothing = maximum_ref[...] <= MASK_VALUE / 2
        total = jnp.broadcast_to(total_ref[...].sum(1, keepdims=True), total_ref.shape)
        out = acc_ref[...] * _across(jnp.where(sees_nothing, 0, 1 / total), D)
        out_ref[...] = out.reshape(G, Tc, D).astype(out_ref.dtype)
        lse = jnp.where(sees_nothing, 0, maximum_ref[...] + jnp.log2(total))
        for g in range(G):
            lse_ref[g, :] = lse[g * Tc : (g + 1) * Tc].T[0]


def _mask(logits: Array, start: Array, stop: Array) -> Array:
    """Mask logits `[G·Tc, Sc]` unless start <= key < stop; start, stop `[Tc, LANES]`, minus the lane number.

    It works on slices of LANES keys: bounds that already fill the lanes can be compared directly, while a column
    `[Tc, 1]` would be broadcast over the lanes again for each slice, which doubles the time of a block.
    """
    Tc = start.shape[0]
    rows = []
    for g in range(0, logits.shape[0], Tc):
        slices = []
        for i in range(0, logits.shape[1], LANES):
            lanes = logits[g : g + Tc, i : i + LANES]
            slices.append(jnp.where((start <= i) & (i < stop), lanes, MASK_VALUE))
        rows.append(jnp.concatenate(slices, axis=1))
    return jnp.concatenate(rows)


def _across(x: Array, width: int) -> Array:
    """Widen a value that is equal in all lanes, `[rows, LANES]`, to `[rows, width]`."""
    return jnp.tile(x, (1, -(-width // LANES)))[:, :width]
