"""LiGO: linear maps of the small model's weights, trained for some steps on the large model's loss.

Wang et al. 2023, arXiv 2303.00980, in the form of Du et al. 2024, arXiv 2405.15319, appendix A.6:

    W'_qkv = B_qkv W B_emb^T,  W'_out = B_emb W B_v^T,  W'_gate,up = B_mlp W B_emb^T,  W'_down = B_emb W B_mlp^T,
    norms and embeddings B_emb;  then  W''_l = sum_j D_lj W'_j  with a D for each of a block's arrays.

They start as B = [I; N(0, 1/D)] and D as stacked identities. Heads are mixed as wholes, so that rotations stay
rotations. Where query heads share key/value heads, which B_v maps, the output projection takes the map of queries.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.methods.growth.operators import register_planner
from pathways_lite.methods.growth.plan import Depth, Fill, GrowthPlan, padded_width
from pathways_lite.models.params import ParamSpec, param_specs
from pathways_lite.recipe import LiGO, Model

Maps = dict[str, Any]


@register_planner("learned")
def plan_ligo(config: LiGO, source: Model, target: Model) -> GrowthPlan:
    """Plan the initial maps. Raises UserError where query heads do not fit their groups."""
    blocks = tuple(layer % source.n_layers for layer in range(target.n_layers))
    width = padded_width(source, target, written=Fill.RANDOM, unread=Fill.RANDOM)
    return GrowthPlan(source, target, Depth(blocks), width, mixed=True)


def initial_maps(plan: GrowthPlan, key: jax.Array) -> Maps:
    """Make `{"width": {"embed": [D, d], "q": [H', H], ..}, "depth": {"layers.attention.q": [L', L], ..}}`, float32."""
    width: dict[str, jax.Array] = {}
    depth: dict[str, jax.Array] = {}
    blocks = np.eye(plan.source.n_layers, dtype=np.float32)[list(plan.depth.blocks)]
    for array in jax.tree.leaves(param_specs(plan.target)):
        for axis in array.axes:
            name, units = _map_name(plan, array, axis), plan.width.get(axis)
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
    """Whether anything grows for which a map can be learned."""
    return bool(plan.width) or plan.source.n_layers != plan.target.n_layers


def apply_maps(plan: GrowthPlan, maps: Maps, params: Any) -> Any:
    """Map the source's `params` to the target's parameters."""

    def map_param(array: ParamSpec, x: jax.Array) -> jax.Array:
        for position, axis in enumerate(array.axes):
            if (matrix := maps["width"].get(_map_name(plan, array, axis))) is not None:
                x = _multiply_along(matrix, x, position + array.stacked)
        if (matrix := maps["depth"].get(array.name)) is not None:
            x = _multiply_along(matrix, x, 0)
        return x

    return jax.tree.map(map_param, param_specs(plan.target), params)


def map_flops(plan: GrowthPlan) -> int:
    """Count the FLOPs of applying the maps once and of their gradient: a matrix product for every axis that grows."""
    total = 0
    for array, small in zip(*map(jax.tree.leaves, (param_specs(plan.target), param_specs(plan.source))), strict=True):
        shape = [*([plan.source.n_layers] if array.stacked else []), *small.shape]
        sizes = [*([plan.target.n_layers] if array.stacked else []), *array.shape]
        order = [*range(array.stacked, len(shape)), *([0] if array.stacked else [])]
        for axis in order:
            if shape[axis] != sizes[axis]:
                before, shape[axis] = shape[axis], sizes[axis]
                total += 3 * 2 * before * math.prod(shape)
    return total


def _map_name(plan: GrowthPlan, array: ParamSpec, axis: str) -> str:
    """Name the matrix that maps the array along the axis."""
    if axis == "kv":
        return array.name.split(".")[2].removesuffix("_bias").removesuffix("_norm")
    if axis != "heads":
        return axis
    multi_head = plan.source.n_kv_heads == plan.source.n_heads and plan.target.n_kv_heads == plan.target.n_heads
    return "v" if multi_head and array.is_out_projection else "q"


def _multiply_along(matrix: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    """Multiply `x` along `axis` by `matrix` [new, old]."""
    return jnp.moveaxis(jnp.tensordot(matrix, x, (1, axis)), 0, axis)
