"""Learning-rate schedules: the shape between 0 and 1 that multiplies an optimizer's peak, as a function of the clock.

A length is measured in its own unit (steps, tokens or FLOPs; a fraction is of the budget, in the budget's unit), so
under a batch-size ramp a warm-up of n tokens stays n tokens.

The value of a step: a step moves the clock from its position *before* to its position *after* the step. A rise is
evaluated after the step and a fall before it, so no update is zero, the last step of a warm-up and the first step of a
decay both have exactly 1, and a decay reaches exactly `end` where the budget ends. Only PaLM's 1/sqrt(k) falls and is
evaluated after the step, as its k counts from 1.

Precision: float32 holds a position to one part in 2^24 (10^13 tokens to about 10^6, a fraction of such a run's
batch). That changes a shape's value by at most a few 1e-7 of the peak, which is below its own rounding. What must be
exact (the counts, the end of the stage) is integer arithmetic on the host, in `ledger.Timeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.ledger import Clock, Timeline
from pathways_lite.recipe import (
    WSD,
    Amount,
    Constant,
    Cosine,
    Fraction,
    Linear,
    PaLM,
    ResolvedBudget,
    Schedule,
    SchedulePlugin,
)

Shape = Callable[[Clock], jax.Array]
Unit = Literal["steps", "tokens", "flops"]


def schedule(config: Schedule, timeline: Timeline) -> Shape:
    """Return the function clock -> the schedule's value for the step that starts there, a float32 scalar in [0, 1].

    JAX can trace it; the clock may hold NumPy or JAX scalars. Where warm-up and decay overlap, and where the stage is
    shorter than its warm-up, the lower of the two values holds.
    """
    rise, fall = _warmup(config.warmup, timeline), _fall(config, timeline)
    return lambda clock: jnp.minimum(rise(clock), fall(clock))


def _fall(config: Schedule, timeline: Timeline) -> Shape:
    """The shape after the warm-up: 1, then falling."""
    match config:
        case Constant():
            return lambda clock: jnp.float32(1.0)
        case Linear(end=end):
            fraction = _fraction_since(config.warmup, timeline)
            return lambda clock: _rescale(1.0 - fraction(clock), end)
        case Cosine(end=end):
            fraction = _fraction_since(config.warmup, timeline)
            return lambda clock: _rescale(0.5 * (1.0 + jnp.cos(jnp.pi * fraction(clock))), end)
        case WSD(end=end):
            fraction = _fraction_of_last(config.decay, timeline)
            # The square root is from Haegele et al., arXiv 2405.18392.
            curve = jnp.sqrt if config.shape == "one_minus_sqrt" else jnp.float32
            return lambda clock: _rescale(1.0 - curve(fraction(clock)), end)
        case PaLM(knee=knee):
            return _inverse_sqrt(knee, timeline)
        case SchedulePlugin():
            fraction = _fraction_since(config.warmup, timeline)
            return lambda clock: jnp.float32(config.shape(fraction(clock)))


def _warmup(length: Amount, timeline: Timeline) -> Shape:
    """Linear from 0, evaluated after the step: the n-th step of n has 1."""
    unit, size = _measure(length, timeline.budget)
    if size == 0.0:
        return lambda clock: jnp.float32(1.0)
    return lambda clock: jnp.minimum(_after(clock, unit, timeline) / size, 1.0)


def _inverse_sqrt(knee: Amount, timeline: Timeline) -> Shape:
    """min(1, sqrt(knee / k)) with k evaluated after the step (PaLM section 5: min(1e-2, 1/sqrt(k)), k from 1)."""
    unit, size = _measure(knee, timeline.budget)
    return lambda clock: jnp.sqrt(size / jnp.maximum(_after(clock, unit, timeline), size))


def _fraction_since(begin: Amount, timeline: Timeline) -> Shape:
    """0 until `begin` is reached, then linear to 1 at the budget's end, in the budget's unit."""
    unit, end = timeline.budget.kind, float(timeline.budget.n)
    begin_unit, start = _measure(begin, timeline.budget)
    if begin_unit != unit:
        start = _position(unit, timeline.steps_for(begin), timeline)
    return _fraction(unit, start, end)


def _fraction_of_last(length: Amount, timeline: Timeline) -> Shape:
    """0 until `length` is left of the stage, then linear to 1 at its end, in the length's unit."""
    unit, size = _measure(length, timeline.budget)
    end = float(timeline.budget.n) if unit == timeline.budget.kind else _position(unit, timeline.total_steps, timeline)
    return _fraction(unit, max(0.0, end - size), end)


def _fraction(unit: Unit, start: float, end: float) -> Shape:
    """The fraction of [start, end] that the clock has passed, evaluated before the step; 0 where that is empty."""
    # Rounded as the clock is, and subtracted as on the device, so that both ends are met exactly.
    first, last = np.float32(start), np.float32(end)
    if first >= last:
        return lambda clock: jnp.float32(0.0)
    return lambda clock: jnp.clip((_before(clock, unit) - first) / (last - first), 0.0, 1.0)


def _rescale(height: jax.Array, end: float) -> jax.Array:
    """Rescale a fall from 1 to 0 to one from 1 to `end`; both ends are met exactly."""
    return height + end * (1.0 - height)


def _measure(amount: Amount, budget: ResolvedBudget) -> tuple[Unit, float]:
    """Return an amount's unit and size."""
    if isinstance(amount, Fraction):
        return budget.kind, amount.n * float(budget.n)
    return amount.kind, float(amount.n)


def _position(unit: Unit, step: int, timeline: Timeline) -> float:
    """Return the position of the clock before `step`, in `unit`, exactly."""
    counts = {"steps": step, "tokens": timeline.tokens_before(step), "flops": timeline.flops_before(step)}
    return float(counts[unit])


def _before(clock: Clock, unit: Unit) -> jax.Array:
    """The position of the clock before the step."""
    return jnp.float32({"steps": clock.step, "tokens": clock.tokens, "flops": clock.flops}[unit])


def _after(clock: Clock, unit: Unit, timeline: Timeline) -> jax.Array:
    """The position of the clock after the step."""
    if unit == "steps":
        return jnp.float32(clock.step + 1)
    phases = timeline.batch_phases
    tokens = _by_phase(clock.step, timeline, [phase.tokens for phase in phases])
    if unit == "flops":
        tokens = tokens * _by_phase(clock.step, timeline, [phase.flops_per_token for phase in phases])
    return _before(clock, unit) + tokens


def _by_phase(step: Any, timeline: Timeline, values: Sequence[int]) -> jax.Array:
    """The value of the batch phase that contains `step`, on the device."""
    starts = jnp.array([phase.step for phase in timeline.batch_phases])
    return jnp.asarray(np.asarray(values, np.float32))[jnp.searchsorted(starts, step, side="right") - 1]
