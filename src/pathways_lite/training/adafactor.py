"""Adafactor as PaLM used it: unfactored, scaled by the parameters' RMS, with momentum over the scaled update.

Shazeer & Stern 2018 (arXiv 1804.04235) sections 6 to 8, with PaLM's settings (Chowdhery et al. 2022, arXiv 2204.02311,
section 5) and T5X's order of operations. `optax.adafactor` factors the second moment, applies momentum
and weight decay at other points, and would be another optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pathways_lite.ledger import Clock
from pathways_lite.models.params import is_axes, is_stacked

SQUARE_FLOOR = 1e-30  # added to squared gradients (Adafactor's epsilon 1)
SCALE_FLOOR = 1e-3  # lower bound of a parameter's RMS (epsilon 2), so that zeros can move


class AdafactorState(NamedTuple):
    """`count`: int32, number of updates. `first`, `second`: the moments, trees like the parameters."""

    count: Any
    first: Any
    second: Any


def adafactor(
    learning_rate: Callable[[Clock], jax.Array],
    axes: Any,
    *,
    b1: float,
    decay_exponent: float,
    update_clip: float,
    weight_decay_exponent: float | None,
) -> optax.GradientTransformationExtraArgs:
    """Build Adafactor, learning rate included; its `update` takes `clock=Clock`.

    With r the learning rate, k the count of updates from 1 and RMS taken per layer and parameter:
        v <- b2 v + (1 - b2)(g^2 + 1e-30),  b2 = 1 - k^-decay_exponent
        u <- g / sqrt(v),  u <- u / max(1, RMS(u) / update_clip)
        m <- b1 m + (1 - b1) r max(1e-3, RMS(p)) u
        p <- p - m - r^weight_decay_exponent p
    Weight decay applies to every parameter, norm scales and embeddings too, as in T5X. `axes` are the parameters'
    logical axes: where blocks are stacked, each layer has its own RMS, as if it were a separate parameter. Where
    weights are pruned, the RMS is of the others: `update` then takes `active`, the fraction that is not pruned, which
    broadcasts against each parameter.
    """

    def init(params: Any) -> AdafactorState:
        zeros = optax.tree.zeros_like
        return AdafactorState(jnp.zeros((), jnp.int32), first=zeros(params), second=zeros(params))

    def update(
        grads: Any, state: AdafactorState, params: Any = None, *, clock: Clock, active: Any = None, **_: Any
    ) -> tuple[Any, AdafactorState]:
        active = jax.tree.map(lambda _: 1.0, params) if active is None else active
        count = optax.safe_increment(state.count)
        # 1 - b2 itself: as the difference of two float32 it would lose digits when k is large.
        fresh = jnp.float32(count) ** -decay_exponent
        rate = learning_rate(clock)

        def scale(names: tuple[str, ...], grad: jax.Array, square: jax.Array, param: jax.Array, active: Any) -> Any:
            u = grad * jax.lax.rsqrt(square)
            u = u / jnp.maximum(1.0, _rms(u, names, active) / update_clip)
            return rate * jnp.maximum(SCALE_FLOOR, _rms(param, names, active)) * u

        second = jax.tree.map(
            lambda v, g: (1.0 - fresh) * v + fresh * (jnp.square(g) + SQUARE_FLOOR), state.second, grads
        )
        step = jax.tree.map(scale, axes, grads, second, params, active, is_leaf=is_axes)
        first = jax.tree.map(lambda m, s: b1 * m + (1.0 - b1) * s, state.first, step)
        decay = 0.0 if weight_decay_exponent is None else rate**weight_decay_exponent
        updates = jax.tree.map(lambda m, p: -m - decay * p, first, params)
        return updates, AdafactorState(count, first, second)

    return optax.GradientTransformationExtraArgs(init, update)


def _rms(x: jax.Array, names: tuple[str, ...], active: Any) -> jax.Array:
    """Root mean square of the active weights, per layer where layers are stacked; broadcasts against `x`."""
    summed = tuple(range(1, x.ndim)) if is_stacked(names) else None
    # Where nothing is active there are only zeros, whose mean square is zero.
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=summed, keepdims=True) / jnp.maximum(active, SQUARE_FLOOR))
