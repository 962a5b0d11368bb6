"""Growth of a whole model, and of the optimizer's moments with it, as pure functions of stacked parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.methods.growth.apply import Place, anywhere, grow_array
from pathways_lite.methods.growth.learned import initial_maps, mapped
from pathways_lite.methods.growth.plan import Plan, Treatment
from pathways_lite.methods.growth.registry import plan_of
from pathways_lite.models.arrays import Array, arrays_of
from pathways_lite.recipe import Grow, Learned, Model, Operator


def grow(operator: Operator, params: Any, source: Model, target: Model, key: jax.Array, *, noise: float = 0.0) -> Any:
    """The target's parameters of the source's; a learned operator's maps are those that they begin as.

    Raises UserError where the operator cannot make one model of the other. Jit it with shardings for a mesh.
    """
    plan = plan_start(Grow(operator=operator, noise=noise), source, target)
    if isinstance(operator, Learned):
        return mapped(plan, initial_maps(plan, key), params)
    return carried_out(plan, params, key, noise=noise)


def plan_start(start: Grow, source: Model, target: Model) -> Plan:
    """The plan of a stage's start. Raises UserError where the models do not fit it, or there is nothing to be noisy."""
    plan = plan_of(start.operator, source, target)
    copies = plan.depth.fresh.any() and plan.depth.treatment is Treatment.COPY and not plan.mixed
    if start.noise and not copies:
        raise UserError(f"noise={start.noise} falls on copies of blocks, of which this growth makes none; use noise=0")
    return plan


def carried_out(
    plan: Plan,
    params: Any,
    key: jax.Array,
    *,
    noise: float = 0.0,
    moment: int = 0,
    place: Place = anywhere,
) -> Any:
    """A tree of parameters, or a part of it, grown; see `whole_array`."""

    def one(array: Array, x: jax.Array) -> jax.Array:
        return whole_array(plan, array, x, key, noise=noise, moment=moment, place=place)

    return jax.tree.map(one, arrays_of(plan.target), params)


def whole_array(
    plan: Plan, array: Array, x: jax.Array, key: jax.Array, *, noise: float, moment: int, place: Place
) -> jax.Array:
    """One array, all of its blocks; see `apply.Growing` for `moment`."""
    if not array.stacked:
        return grow_array(plan, array, x, key, moment=moment, place=place)
    if plan.depth.blocks != tuple(range(plan.source.n_layers)):
        x = jnp.take(x, np.array(plan.depth.blocks), axis=0)
    blocks, fresh = jnp.arange(len(plan.depth.blocks)), jnp.asarray(plan.depth.fresh)
    return grow_array(plan, array, x, key, blocks=blocks, fresh=fresh, noise=noise, moment=moment, place=place)
