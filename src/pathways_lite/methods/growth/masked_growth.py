"""Masked growth: masks of new units and blocks, as factors on parameters and a pure function of the clock.

A mask on the output of a linear layer is a factor on the columns of its weights, so the model does not know of it,
however its layers are run and sharded. The train step differentiates, and the evaluation uses, the parameters under
their masks; where all masks are 1 these are the parameters.

New blocks are ramped in from the start. Of widths, new units of the MLP come first, then those of the residual stream,
then heads, each over the ramp's length (Masked Structural Growth, Yao et al. 2023, arXiv 2305.02869; the order is that
of the MSG code that Du et al. 2024, arXiv 2405.15319, use). While only the fraction s of the residual stream is
unmasked, all of it is scaled by sqrt(1 / s), which MSG does to norms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pathways_lite.errors import UserError
from pathways_lite.ledger import Clock, Timeline
from pathways_lite.methods.growth.plan import GrowthPlan
from pathways_lite.models.params import AxisRole, ParamSpec, param_specs
from pathways_lite.recipe import Amount

WIDTHS = ("mlp", "embed", "heads")
"""Axes in the order in which they are ramped in."""

GrowthMasks = Callable[[Any, Clock], Any]
"""(parameters, clock) -> parameters under their masks."""


def masks_end(plan: GrowthPlan, ramp: Amount, timeline: Timeline) -> int:
    """Return the step from which on all masks are 1. Raises UserError where the stage ends before it."""
    steps, turns = _ramp_steps(ramp, timeline), max(1, len(_grown_axes(plan)))
    if steps * turns > timeline.total_steps:
        raise UserError(
            f"the masks of random growth need {steps * turns} steps (ramp: {steps}, {turns} in a row), but the "
            f"stage has {timeline.total_steps}; shorten start.operator.ramp, or train longer"
        )
    return steps * turns


def _ramp_steps(ramp: Amount, timeline: Timeline) -> int:
    return max(1, timeline.steps_for(ramp))


def _grown_axes(plan: GrowthPlan) -> list[str]:
    """List the axes that grow, in the order in which they are ramped in."""
    return [axis for axis in WIDTHS if axis in plan.width]


def build_masks(plan: GrowthPlan, ramp: Amount, timeline: Timeline) -> GrowthMasks:
    """Build the masks of a stage. Raises UserError where the stage ends before they are all 1."""
    masks_end(plan, ramp, timeline)
    grown, steps = _grown_axes(plan), _ramp_steps(ramp, timeline)
    arrays = param_specs(plan.target)

    def apply_masks(params: Any, clock: Clock) -> Any:
        passed = jnp.float32(clock.step) / steps
        rise = {axis: jnp.clip(passed - turn, 0.0, 1.0) for turn, axis in enumerate(grown)}
        rise["layers"] = jnp.clip(passed, 0.0, 1.0)
        return jax.tree.map(lambda array, x: x * _factor(plan, array, rise), arrays, params)

    return apply_masks


def _factor(plan: GrowthPlan, array: ParamSpec, rise: Mapping[str, jax.Array]) -> jax.Array:
    """The factor of an array, which broadcasts against it; 1 where it has no mask."""
    factor = jnp.ones((1,) * (len(array.axes) + array.stacked))
    if array.axes == ("embed",) and "embed" in rise and array.use("embed") is AxisRole.SCALES:
        return factor / _stream_scale(plan, rise["embed"])
    if array.is_output:
        mask = jnp.where(plan.depth.fresh, rise["layers"], 1.0)
        factor = factor * mask.reshape(-1, *[1] * len(array.axes))
    for position, axis in enumerate(array.axes):
        role = array.use(axis)
        if axis == "embed" and axis in rise and array.reads_unnormalized:
            factor = factor / _stream_scale(plan, rise[axis])
        if axis not in rise or role in (AxisRole.SCALES, AxisRole.ADJUSTS):
            continue
        mask = jnp.where(plan.width[axis].new, rise[axis], 1.0)
        if role is AxisRole.WRITES and axis == "embed":
            mask = mask * _stream_scale(plan, rise[axis])
        elif role is AxisRole.WRITES or axis == "embed":
            continue  # each is masked once: units of the stream where they are written, others where they are read
        factor = factor * mask.reshape(-1, *[1] * (len(array.axes) - position - 1))
    return factor


def _stream_scale(plan: GrowthPlan, rise: jax.Array) -> jax.Array:
    """sqrt(D / sum of the residual stream's mask)."""
    old, new = plan.source.d_model, plan.target.d_model
    return jnp.sqrt(new / (old + rise * (new - old)))
