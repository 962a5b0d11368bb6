"""Units that are pruned together: single weights, heads, channels, blocks.

A `PruneGroup` lists the arrays that share units; each unit has one score.

Weights come as lists, in the order of the group's arrays, with layers stacked on a leading axis as in the parameters.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.ledger import DensityPhase, Timeline
from pathways_lite.methods.pruning.schedules import DensitySchedule, mask_updates, num_kept
from pathways_lite.models.accounting import flops_per_token
from pathways_lite.models.params import ATTENTION, EMBEDDING, MLP, AxisRole, ParamSpec, param_specs
from pathways_lite.recipe import NM, Channels, Heads, Model, Prune, Unstructured, WholeBlocks

SAVED_PER_WEIGHT = 6
"""FLOPs per token of a weight, forward and backward (PaLM appendix B)."""


@dataclass(frozen=True)
class GroupArray:
    """An array of a group. Its units are along `axis`, size / units neighbors each (None: every element is a unit)."""

    array: ParamSpec
    axis: int | None


@dataclass(frozen=True)
class PruneGroup:
    """Arrays that share their units, which are pruned together.

    Attributes:
      sets: number of sets of units in which a density holds separately: the layers, or 1.
      units: number of units in each set.
      weights: number of weights of one unit.
      flops: FLOPs per token that a pruned unit saves where zeros are skipped.
    """

    members: tuple[GroupArray, ...]
    sets: int
    units: int
    weights: int
    flops: int

    def scores(self, weights: Sequence[jax.Array]) -> jax.Array:
        """Sum per-weight numbers over each unit: [sets, units], or [sets, ...] for single weights."""
        if self.members[0].axis is None:
            (x,) = weights
            return x if self.members[0].array.stacked else x[None]
        sums = (self._sums(member, x) for member, x in zip(self.members, weights, strict=True))
        return jnp.sum(jnp.stack(list(sums)), axis=0)

    def _sums(self, member: GroupArray, x: jax.Array) -> jax.Array:
        x = jnp.sum(x, axis=tuple(axis for axis in range(x.ndim) if axis not in (0, member.axis)))
        return jnp.sum(x.reshape(self.sets, self.units, -1), axis=-1)

    def masks(self, units: jax.Array) -> list[jax.Array]:
        """Expand a mask of the units, ordered as by `scores`, to the weights of each array."""
        return [self._mask(member, units) for member in self.members]

    def _mask(self, member: GroupArray, units: jax.Array) -> jax.Array:
        array, axis = member.array, member.axis
        if axis is None:
            return units if array.stacked else units[0]
        layers = self.units if axis == 0 else self.sets
        shape = (layers, *array.shape)
        broadcast_shape = [1] * len(shape)
        broadcast_shape[0], broadcast_shape[axis] = layers, shape[axis]
        repeated = jnp.repeat(units, shape[axis] // self.units, axis=1) if axis else units
        return jnp.broadcast_to(repeated.reshape(broadcast_shape), shape)


def prune_groups(prune: Prune, model: Model, seq_len: int) -> tuple[PruneGroup, ...]:
    """Build the groups of a model that are pruned. Raises UserError where the model or the scope has none."""
    arrays = {array.name: array for array in jax.tree.leaves(param_specs(model))}
    attention = 12 * model.head_dim * seq_len  # FLOPs per token and head (PaLM appendix B)
    match prune.structure:
        case Unstructured():
            return tuple(_single(array, model) for array in _in_scope(prune.scope, arrays))
        case NM() as pattern:
            return tuple(
                _single(_require_divisible(array, pattern.m), model) for array in _in_scope(prune.scope, arrays)
            )
        case Heads():
            shared = model.n_kv_heads == 1  # then the one head of keys and values stays
            heads = (ATTENTION.q, ATTENTION.out) if shared else ATTENTION
            units = model.n_heads if shared else model.n_kv_heads
            saved = attention * model.n_heads // units
            return (_group_along(heads, ("heads", "kv"), units, saved, arrays, model),)
        case Channels():
            channels = [name for name in MLP if name in arrays]  # without a gate where the model has none
            return (_group_along(channels, ("mlp",), model.d_ff, 0, arrays, model),)
        case WholeBlocks():
            if model.adds_bias:
                raise UserError(
                    f"pruning whole blocks needs blocks that add nothing without their kernels, but model.bias="
                    f"{list(model.bias or ())} would still be added; use another structure"
                )
            kernels = _in_scope(("linear",), arrays)
            weights = sum(math.prod(array.shape) for array in kernels)
            flops = SAVED_PER_WEIGHT * weights + attention * model.n_heads
            return (PruneGroup(tuple(GroupArray(array, 0) for array in kernels), 1, model.n_layers, weights, flops),)


def input_axis(array: ParamSpec) -> int:
    """Return the last axis of a matrix, stacked or not, that is summed over: N:M patterns run along it."""
    return [axis for axis, name in enumerate(array.axes) if array.use(name) is AxisRole.READS][-1] + array.stacked


def density_phases(prune: Prune, groups: Sequence[PruneGroup], timeline: Timeline) -> tuple[DensityPhase, ...]:
    """Compute active parameters and FLOPs from step to step, for the stage's `Timeline`.

    Raises UserError where a group would have no unit left.
    """
    schedule = _density_schedule(prune, groups, timeline.flops_per_token)
    for density in (schedule.initial, schedule.final):
        if empty := [group for group in groups if not num_kept(group.units, density)]:
            name = empty[0].members[0].array.name
            raise UserError(
                f"pruning: a density of {density:g} leaves nothing of the {empty[0].units} units of {name}; prune less"
            )

    def phase(step: int, density: float) -> DensityPhase:
        pruned = [(group, group.sets * (group.units - num_kept(group.units, density))) for group in groups]
        parameters = timeline.active_parameters - sum(units * group.weights for group, units in pruned)
        flops = timeline.flops_per_token - sum(units * group.flops for group, units in pruned)
        return DensityPhase(step, density, parameters, flops)

    return tuple(phase(step, density) for step, density in mask_updates(schedule, timeline))


def mean_flops_per_token(prune: Prune | None, model: Model, seq_len: int) -> float:
    """Return FLOPs per token where zeros are skipped, averaged over a stage: for budgets that cost about the same.

    It is of densities that change at every step; the more steps between updates, the more a stage costs (1.06 times as
    much at 100 of 825). `training.stage.steps_for_sparse_flops` is exact. Without pruning, all FLOPs count.
    """
    dense = flops_per_token(model, seq_len)
    if prune is None:
        return dense
    groups = prune_groups(prune, model, seq_len)
    return dense - _saved_flops(groups) * (1.0 - _density_schedule(prune, groups, dense).mean)


def _density_schedule(prune: Prune, groups: Sequence[PruneGroup], dense_flops: int) -> DensitySchedule:
    saved = _saved_flops(groups)
    return DensitySchedule(prune, fixed=(dense_flops - saved) / saved)


def _saved_flops(groups: Sequence[PruneGroup]) -> int:
    """Return the FLOPs per token that pruning everything would save."""
    return sum(group.sets * group.units * group.flops for group in groups)


def _single(array: ParamSpec, model: Model) -> PruneGroup:
    sets = model.n_layers if array.stacked else 1
    return PruneGroup((GroupArray(array, None),), sets, math.prod(array.shape), 1, SAVED_PER_WEIGHT)


def _require_divisible(array: ParamSpec, m: int) -> ParamSpec:
    if not array.is_matrix or AxisRole.READS not in map(array.use, array.axes):
        raise UserError(f"pruning.scope: patterns run along what a kernel reads, and {array.name} is not a kernel")
    size = array.shape[input_axis(array) - array.stacked]
    if size % m:
        raise UserError(f"{array.name} reads {size} units, which patterns of {m} do not divide; use another m or model")
    return array


def _group_along(
    names: Sequence[str],
    axes: Sequence[str],
    units: int,
    flops: int,
    arrays: dict[str, ParamSpec],
    model: Model,
) -> PruneGroup:
    """Group arrays by their units along some axes; `flops`: what a unit saves besides the FLOPs of its weights."""
    members = []
    for array in (arrays[name] for name in names):
        axis = next(axis for axis in array.axes if axis in axes)
        members.append(GroupArray(array, array.axis_number(axis)))
    weights = sum(math.prod(member.array.shape) for member in members) // units
    return PruneGroup(tuple(members), model.n_layers, units, weights, SAVED_PER_WEIGHT * weights + flops)


def _in_scope(scope: Sequence[str], arrays: dict[str, ParamSpec]) -> list[ParamSpec]:
    """List the arrays that a scope names, in the order of the parameters; wildcards match matrices only."""
    chosen: set[str] = set()
    for pattern in scope:
        if pattern == "linear":
            names = {name for name, array in arrays.items() if array.stacked and array.is_matrix}
        elif pattern == "kernels":
            names = {name for name, array in arrays.items() if name != EMBEDDING and array.is_matrix}
        elif pattern in arrays:
            names = {pattern}
        else:
            names = {name for name in fnmatch.filter(arrays, pattern) if arrays[name].is_matrix}
        if not names:
            known = ("linear", "kernels", *arrays)
            raise UserError(f"pruning.scope: no matrix is called {pattern!r}.{did_you_mean(pattern, known)}")
        chosen |= names
    return [array for name, array in arrays.items() if name in chosen]
