"""Learning-rate schedules: the shape between 0 and 1 that multiplies an optimizer's peak, as a function of the clock.

A length is measured in the unit it is given in (steps, tokens or FLOPs; a fraction is taken of the budget, in the
budget's unit), so under a batch-size ramp a warm-up of so many tokens stays that many tokens.

What a step's value is: a step moves the clock from where it stands *before* to where it stands *after*.
A rise is read after the step and a fall before it, so no update is zero, the last step of a warm-up and the
first one of a decay both have exactly 1, and a decay reaches exactly `end` where the budget ends. PaLM's
1/sqrt(k) alone falls and is read after the step, as its k counts from 1.

Precision: float32 holds a position to one part in 2^24 (10^13 tokens to about 10^6, a fraction of such a run's
batch). A shape's value moves by at most a few 1e-7 of the peak, which is below its own rounding. What must be
exact (the counts, the end of the stage) is integer arithmetic on the host, in `ledger.Timeline`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.ledger import Clock, Timeline
from pathways_lite.recipe import WSD, Amount, Budget, Constant, Cosine, Fraction, Linear, PaLM, Ramp, Schedule

Shape = Callable[[Clock], jax.Array]
Unit = Literal["steps", "tokens", "flops"]


def schedule(config: Schedule, timeline: Timeline) -> Shape:
    """The schedule's value, a float32 scalar in [0, 1], for the step that starts at a given clock.

    Traceable by JAX; the clock may be of NumPy or JAX scalars. Where warm-up and decay overlap, and where the stage
    is shorter than its warm-up, the lower of the two holds.
    """
    rise, fall = _warmup(config.warmup, timeline), _fall(config, timeline)
    return lambda clock: jnp.minimum(rise(clock), fall(clock))


def _fall(config: Schedule, timeline: Timeline) -> Shape:
    """What follows the warm-up: 1, then falling."""
    match config:
        case Constant():
            return lambda clock: jnp.float32(1.0)
        case Linear(end=end):
            share = _share_since(config.warmup, timeline)
            return lambda clock: _between(1.0 - share(clock), end)
        case Cosine(end=end):
            share = _share_since(config.warmup, timeline)
            return lambda clock: _between(0.5 * (1.0 + jnp.cos(jnp.pi * share(clock))), end)
        case WSD(end=end):
            share = _share_of_last(config.decay, timeline)
            # The square root is of Haegele et al., arXiv 2405.18392.
            bend = jnp.sqrt if config.shape == "one_minus_sqrt" else jnp.float32
            return lambda clock: _between(1.0 - bend(share(clock)), end)
        case PaLM(knee=knee):
            return _inverse_sqrt(knee, timeline)


def _warmup(length: Amount, timeline: Timeline) -> Shape:
    """Linear from 0, read after the step: the n-th step of n has 1."""
    unit, size = _measure(length, timeline.budget)
    if size == 0.0:
        return lambda clock: jnp.float32(1.0)
    return lambda clock: jnp.minimum(_after(clock, unit, timeline) / size, 1.0)


def _inverse_sqrt(knee: Amount, timeline: Timeline) -> Shape:
    """min(1, sqrt(knee / k)) with k read after the step (PaLM section 5: min(1e-2, 1/sqrt(k)), k from 1)."""
    unit, size = _measure(knee, timeline.budget)
    return lambda clock: jnp.sqrt(size / jnp.maximum(_after(clock, unit, timeline), size))


def _share_since(begin: Amount, timeline: Timeline) -> Shape:
    """0 until `begin` is reached, then linear to 1 at the budget's end, in the budget's unit."""
    unit, end = timeline.budget.kind, float(timeline.budget.n)
    begin_unit, start = _measure(begin, timeline.budget)
    if begin_unit != unit:
        start = _reached(unit, timeline.steps_for(begin), timeline)
    return _share(unit, start, end)


def _share_of_last(length: Amount, timeline: Timeline) -> Shape:
    """0 until `length` is left of the stage, then linear to 1 at its end, in the length's unit."""
    unit, size = _measure(length, timeline.budget)
    end = float(timeline.budget.n) if unit == timeline.budget.kind else _reached(unit, timeline.total_steps, timeline)
    return _share(unit, max(0.0, end - size), end)


def _share(unit: Unit, start: float, end: float) -> Shape:
    """How much of [start, end] is behind the clock, from 0 to 1, read before the step; 0 where that is empty."""
    # Rounded as the clock is, and subtracted as on the device, so that both ends are met exactly.
    first, last = np.float32(start), np.float32(end)
    if first >= last:
        return lambda clock: jnp.float32(0.0)
    return lambda clock: jnp.clip((_before(clock, unit) - first) / (last - first), 0.0, 1.0)


def _between(height: jax.Array, end: float) -> jax.Array:
    """A shape that falls from 1 to 0, made to fall from 1 to `end`; both are met exactly."""
    return height + end * (1.0 - height)


def _measure(amount: Amount, budget: Budget) -> tuple[Unit, float]:
    """An amount's unit and size."""
    if isinstance(amount, Fraction):
        return budget.kind, amount.n * float(budget.n)
    return amount.kind, float(amount.n)


def _reached(unit: Unit, step: int, timeline: Timeline) -> float:
    """Where the clock stands before `step`, in `unit`, exactly."""
    counts = {"steps": step, "tokens": timeline.tokens_before(step), "flops": timeline.flops_before(step)}
    return float(counts[unit])


def _before(clock: Clock, unit: Unit) -> jax.Array:
    """Where the clock stands before the step."""
    return jnp.float32({"steps": clock.step, "tokens": clock.tokens, "flops": clock.flops}[unit])


def _after(clock: Clock, unit: Unit, timeline: Timeline) -> jax.Array:
    """Where the clock will stand after the step."""
    if unit == "steps":
        return jnp.float32(clock.step + 1)
    tokens = _sequences(clock.step, timeline.ramp) * jnp.float32(timeline.seq_len)
    return _before(clock, unit) + tokens * (timeline.flops_per_token if unit == "flops" else 1)


def _sequences(step: Any, ramp: Ramp) -> jax.Array:
    """Sequences in the batch of `step`, traceable: `Timeline.sequences_at` on the device."""
    starts, sizes = zip(*ramp.steps, strict=True)
    return jnp.array(sizes, jnp.float32)[jnp.searchsorted(jnp.array(starts), step, side="right") - 1]
