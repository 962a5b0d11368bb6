"""The forward kernel of `pallas_tpu`, which explains the method and the letters."""

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
    UNSEEN,
    Bounds,
    block_of_keys,
    dot,
    over_keys,
    specs,
    visits,
)

Array = jax.Array


def forward(
    q: Array,
    k: Array,
    v: Array,
    bounds: Bounds,
    ranges: Array,
    *,
    transform: LogitTransform,
    sizes: BlockSizes,
    interpret: Any,
) -> tuple[Array, Array]:
    """The output, as q, and the log-sum-exp in base 2, float32 `[B, P, G, T]` (0 where a query sees nothing).

    q `[B, P, G, T, D]`; k, v `[B, K, S, D]`; ranges `[B, T / Tc, 4]`: `block_ranges.of_keys`.
    """
    B, P, G, T, D = q.shape
    grid = (P, B, T // sizes.queries, k.shape[2] // sizes.segment)
    spec = specs(q, k, bounds, sizes, order=lambda p, b, i, s: (p, b, i, s))
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
    top_ref: Any,  # [G·Tc, LANES], the running maximum of a query's logits, in every lane
    total_ref: Any,  # [G·Tc, LANES], the running sum of its weights, spread over the lanes
    acc_ref: Any,  # [G·Tc, D]
    *,
    bounds: Bounds,
    transform: LogitTransform,
    sizes: BlockSizes,
) -> None:
    G, Tc, D = q_ref.shape
    row, block, segment = (pl.program_id(axis) for axis in (1, 2, 3))
    seen = visits(ranges_ref, row, block, segment, sizes)

    @pl.when(segment == 0)
    def begin() -> None:
        top_ref[...] = jnp.full_like(top_ref, UNSEEN)
        total_ref[...] = jnp.zeros_like(total_ref)
        acc_ref[...] = jnp.zeros_like(acc_ref)

    def scores(j: Any, masked: bool) -> Array:
        logits = transform.logits(
            dot(q_ref[...].reshape(G * Tc, D), k_ref[block_of_keys(j, sizes), :], transposed="y")
        )[0]
        if not masked:
            return logits
        # What is left of the bounds at this block's first lane of keys, in every lane but for the lane's number.
        at = segment * sizes.segment + j * sizes.keys + lax.broadcasted_iota(jnp.int32, (Tc, LANES), 1)
        rows = bounds.rows(bounds_ref, block, Tc)
        return _mask(logits, *(jnp.broadcast_to(x, (LANES, Tc)).T - at for x in rows))

    def absorb(j: Any, _: bool, logits: Array) -> None:
        top = jnp.maximum(top_ref[...], logits.max(1, keepdims=True))
        weights = jnp.exp2(logits - jnp.tile(top, (1, sizes.keys // LANES)))
        fade = jnp.exp2(top_ref[...] - top)
        total_ref[...] = total_ref[...] * fade + sum(weights[:, i : i + LANES] for i in range(0, sizes.keys, LANES))
        values = dot(weights.astype(v_ref.dtype), v_ref[block_of_keys(j, sizes), :])
        acc_ref[...] = acc_ref[...] * _across(fade, D) + values
        top_ref[...] = top

    over_keys(seen, scores, absorb, sizes.unroll)

    @pl.when(segment == pl.num_programs(3) - 1)
    def finish() -> None:
        blind = top_ref[...] <= UNSEEN / 2
        total = jnp.broadcast_to(total_ref[...].sum(1, keepdims=True), total_ref.shape)
        out = acc_ref[...] * _across(jnp.where(blind, 0, 1 / total), D)
        out_ref[...] = out.reshape(G, Tc, D).astype(out_ref.dtype)
        lse = jnp.where(blind, 0, top_ref[...] + jnp.log2(total))
        for g in range(G):
            lse_ref[g, :] = lse[g * Tc : (g + 1) * Tc].T[0]


def _mask(logits: Array, start: Array, stop: Array) -> Array:
    """Logits `[G·Tc, Sc]`, UNSEEN where not start <= key < stop; start, stop `[Tc, LANES]`, less each lane's number.

    By slices of LANES keys: bounds that fill the lanes are compared as they lie, where a column `[Tc, 1]` would be
    spread over the lanes again for each slice, which doubles the time of a block.
    """
    Tc = start.shape[0]
    rows = []
    for g in range(0, logits.shape[0], Tc):
        slices = []
        for i in range(0, logits.shape[1], LANES):
            part = logits[g : g + Tc, i : i + LANES]
            slices.append(jnp.where((start <= i) & (i < stop), part, UNSEEN))
        rows.append(jnp.concatenate(slices, axis=1))
    return jnp.concatenate(rows)


def _across(x: Array, width: int) -> Array:
    """A value that fills the lanes, `[rows, LANES]`, as `[rows, width]`."""
    return jnp.tile(x, (1, -(-width // LANES)))[:, :width]
