"""LiGO: linear maps of the small model's weights, trained for a while on the large model's loss.

Wang et al. 2023, arXiv 2303.00980, as Du et al. 2024, arXiv 2405.15319, appendix A.6, write it down:

    W'_qkv = B_qkv W B_emb^T,  W'_out = B_emb W B_v^T,  W'_gate,up = B_mlp W B_emb^T,  W'_down = B_emb W B_mlp^T,
    norms and embeddings B_emb;  then  W''_l = sum_j D_lj W'_j  with a D for each of a block's arrays.

They begin as B = [I; N(0, 1/D)] and D as stacked identities. Heads are mixed as wholes, so that rotations stay
rotations. Where query heads share key/value heads, which B_v maps, the output's kernel takes the map of queries.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.methods.growth.plan import Depth, Fill, GrowthPlan, padded_width
from pathways_lite.models.params import ParamSpec, param_specs
from pathways_lite.recipe import LiGO, Model

Maps = dict[str, Any]


def plan_ligo(config: LiGO, source: Model, target: Model) -> GrowthPlan:
    """How the maps begin. Raises UserError where query heads do not fit their groups."""
    blocks = tuple(layer % source.n_layers for layer in range(target.n_layers))
    width = padded_width(source, target, written=Fill.RANDOM, unread=Fill.RANDOM)
    return GrowthPlan(source, target, Depth(blocks), width, mixed=True)


def initial_maps(plan: GrowthPlan, key: jax.Array) -> Maps:
    """`{"width": {"embed": [D, d], "q": [H', H], ...}, "depth": {"layers.attention.q": [L', L], ...}}`, float32."""
    width: dict[str, jax.Array] = {}
    depth: dict[str, jax.Array] = {}
    blocks = np.eye(plan.source.n_layers, dtype=np.float32)[list(plan.depth.blocks)]
    for array in jax.tree.leaves(param_specs(plan.target)):
        for axis in array.axes:
            name, units = _map_of(plan, array, axis), plan.width.get(axis)
            if units is None or name in width:
                continue
            shape = (units.index.size, units.old)
            drawn = jax.random.normal(jax.random.fold_in(key, len(width)), shape) * shape[0] ** -0.5
            copies = np.eye(units.old, dtype=np.float32)[units.sources]
            width[name] = jnp.where(units.new[:, None], drawn, copies)
        if array.stacked and plan.source.n_layers != plan.target.n_layers:
            depth[array.name] = jnp.asarray(blocks)
    return {"width": width, "depth": depth}


def has_maps(plan: GrowthPlan) -> bool:
    """Whether anything grows that a map could be learned for."""
    return bool(plan.width) or plan.source.n_layers != plan.target.n_layers


def apply_maps(plan: GrowthPlan, maps: Maps, params: Any) -> Any:
    """The target's parameters: the source's `params` under the maps."""

    def one(array: ParamSpec, x: jax.Array) -> jax.Array:
        for at, axis in enumerate(array.axes):
            if (matrix := maps["width"].get(_map_of(plan, array, axis))) is not None:
                x = _along(matrix, x, at + array.stacked)
        if (matrix := maps["depth"].get(array.name)) is not None:
            x = _along(matrix, x, 0)
        return x

    return jax.tree.map(one, param_specs(plan.target), params)


def map_flops(plan: GrowthPlan) -> int:
    """FLOPs of applying the maps once and of their gradient: a product of matrices for every axis that grows."""
    total = 0
    for array, small in zip(*map(jax.tree.leaves, (param_specs(plan.target), param_specs(plan.source))), strict=True):
        shape = [*([plan.source.n_layers] if array.stacked else []), *small.shape]
        sizes = [*([plan.target.n_layers] if array.stacked else []), *array.shape]
        order = [*range(array.stacked, len(shape)), *([0] if array.stacked else [])]
        for at in order:
            if shape[at] != sizes[at]:
                before, shape[at] = shape[at], sizes[at]
                total += 3 * 2 * before * math.prod(shape)
    return total


def _map_of(plan: GrowthPlan, array: ParamSpec, axis: str) -> str:
    """The name of the matrix that maps the array along the axis."""
    if axis == "kv":
        return array.name.rsplit(".", 1)[-1]
    if axis != "heads":
        return axis
    multi_head = plan.source.n_kv_heads == plan.source.n_heads and plan.target.n_kv_heads == plan.target.n_heads
    return "v" if multi_head and array.is_output else "q"


def _along(matrix: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    """`matrix` [new, old] applied to `x` along `axis`."""
    return jnp.moveaxis(jnp.tensordot(matrix, x, (1, axis)), 0, axis)
