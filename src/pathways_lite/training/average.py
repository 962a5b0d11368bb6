"""The exponential moving average of what a stage trains: its state, its updates, and the model that it stands for."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pathways_lite.recipe import EMA


class Average(NamedTuple):
    """A moving average. Frozen parameters are not in it: their average would be themselves."""

    count: Any  # int32 scalar, updates so far
    params: Any  # float32, of what is trained (`Trainable.rows`)


def start_average(rows: Any) -> Average:
    """Return the average before the first update: a copy of the parameters, as those are donated by themselves."""
    return Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, rows))


def update_average(config: EMA, average: Average, rows: Any, step: jax.Array) -> Average:
    """Move the average towards the parameters after `step` steps; it stays as it is between its updates."""

    def move(average: Average) -> Average:
        count = jnp.float32(average.count)
        decay: Any = config.decay
        if config.warmup:
            decay = jnp.minimum(decay, (1.0 + count) / (10.0 + count))
        # In this form an average that equals the parameters stays equal to the bit.
        moved = jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), average.params, rows)
        return Average(average.count + 1, moved)

    if config.every == 1:
        return move(average)
    return jax.lax.cond(step % config.every == 0, move, lambda average: average, average)
