"""Build a recipe's optimizer as an optax transformation whose `update` takes `clock=Clock`.

Everything is optax's where optax has it. The learning rate is a function of the clock and not of a count of updates, so
it follows tokens or FLOPs, and a step whose update was dropped still counts. The moments' bias correction counts the
updates that the moments have received.

A new optimizer is a class in `recipe/optimizer.py` and a case in `build_optimizer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from pathways_lite import models
from pathways_lite.ledger import Clock, Timeline
from pathways_lite.methods import pruning
from pathways_lite.models.params import Axes, is_axes, is_matrix, is_stacked, matrix_sides
from pathways_lite.models.trainable import EVERYTHING, Trainable
from pathways_lite.recipe import SGD, Adafactor, AdamW, Lion, Muon, Optimizer, OptimizerPlugin, ScheduleFree, Stage
from pathways_lite.training.parameter_groups import GroupFactors, add_group_decay, group_factors, scale_rates
from pathways_lite.training.schedules import schedule

Rate = Callable[[Clock], jax.Array]


def learning_rate_fn(config: Optimizer, timeline: Timeline) -> Rate:
    """Return the function clock -> learning rate (of Muon: of the matrices) of the next step, a float32 scalar."""
    shape = schedule(config.schedule, timeline)
    return lambda clock: config.learning_rate * shape(clock)


def build_stage_optimizer(
    stage: Stage, timeline: Timeline, trainable: Trainable = EVERYTHING
) -> optax.GradientTransformationExtraArgs:
    """Build the optimizer of a stage, with pruning around it where the stage prunes.

    `init` takes all parameters, `update` all parameters and gradients of what is trained, for which it returns updates.
    """
    axes = trainable.arrays(models.logical_axes(stage.model))
    optimizer = build_optimizer(stage.optimizer, timeline, axes, group_factors(stage, trainable))
    if not trainable.is_all:
        return _train_only(optimizer, trainable)
    if stage.pruning is None:
        return optimizer
    groups = pruning.prune_groups(stage.pruning, stage.model, stage.data.seq_len)
    return pruning.prune(optimizer, stage.pruning, groups, timeline, models.param_specs(stage.model))


def _train_only(
    optimizer: optax.GradientTransformationExtraArgs, trainable: Trainable
) -> optax.GradientTransformationExtraArgs:
    """Give an optimizer of what is trained all parameters; of the others it has no state."""

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        return optimizer.update(grads, state, trainable.rows(params), **extra)

    return optax.GradientTransformationExtraArgs(lambda params: optimizer.init(trainable.rows(params)), update)


def build_optimizer(
    config: Optimizer, timeline: Timeline, axes: Any, factors: GroupFactors | None = None
) -> optax.GradientTransformationExtraArgs:
    """Build an optimizer; gradients are clipped by their global norm first.

    `axes` is the tree of parameters with a tuple of logical axis names per array. `update(grads, state, params,
    clock=)` returns updates to be added. Weight decay is multiplied by the learning rate and applies to matrices,
    embedding and head included, not to norm scales (Adafactor's is PaLM's own). `factors` are those of the recipe's
    groups, `group_factors`.
    """
    rate = learning_rate_fn(config, timeline)
    match config:
        case AdamW():
            transforms = [
                optax.scale_by_adam(config.b1, config.b2, config.epsilon),
                *_decay_and_scale(config, axes, rate, factors),
            ]
        case Lion():
            transforms = [optax.scale_by_lion(config.b1, config.b2), *_decay_and_scale(config, axes, rate, factors)]
        case SGD():
            momentum = [optax.trace(config.momentum, config.nesterov)] if config.momentum else []
            transforms = [*momentum, *_decay_and_scale(config, axes, rate, factors)]
        case Adafactor():
            options = config.model_dump(include={"b1", "decay_exponent", "update_clip", "weight_decay_exponent"})
            transforms = [adafactor(rate, axes, factors=factors, **options)]
        case Muon():
            transforms = [_muon(config, axes, rate, factors)]
        case OptimizerPlugin():
            transforms = [config.direction(axes), *_decay_and_scale(config, axes, rate, factors)]
        case ScheduleFree():
            transforms = [_schedule_free(config, axes, rate, factors)]
    clipping = [] if config.clip_norm is None else [clip(config.clip_norm)]
    return optax.chain(*clipping, *transforms)


def evaluation_params(opt_state: Any, params: Any) -> Any:
    """Return the parameters to evaluate and keep: schedule-free's average, otherwise `params` themselves."""
    is_schedule_free = lambda node: isinstance(node, contrib.ScheduleFreeState)  # noqa: E731
    for node in jax.tree.leaves(opt_state, is_leaf=is_schedule_free):
        if is_schedule_free(node):
            return contrib.schedule_free_eval_params(node, params)
    return params


def clip(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """Scale gradients by min(1, max_norm / their global norm), which is computed unless `grad_norm` is given.

    `optax.clip_by_global_norm` divides every element under a select, which doubled the time of a whole AdamW update
    on a CPU; and the train step has computed the norm already.
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, grad_norm: jax.Array | None = None, **_: Any
    ) -> tuple[Any, Any]:
        norm = optax.tree.norm(updates) if grad_norm is None else grad_norm
        factor = max_norm / jnp.maximum(norm, max_norm)
        return jax.tree.map(lambda u: factor * u, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def scale_by_clock(rate: Rate) -> optax.GradientTransformationExtraArgs:
    """Multiply updates by minus the learning rate at the clock."""

    def update(updates: Any, state: Any, params: Any = None, *, clock: Clock, **_: Any) -> tuple[Any, Any]:
        factor = -rate(clock)
        return jax.tree.map(lambda u: factor * u, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _decay_and_scale(config: Optimizer, axes: Any, rate: Rate, factors: GroupFactors | None) -> list[Any]:
    """Weight decay on matrices or as groups have it, if there is any, then the learning rate on both."""
    decay = getattr(config, "weight_decay", None)
    if factors is not None:
        return [add_group_decay(factors, decay or 0.0, _matrices(axes)), scale_rates(factors), scale_by_clock(rate)]
    if decay is None:
        return [scale_by_clock(rate)]
    return [optax.add_decayed_weights(decay, _matrices(axes)), scale_by_clock(rate)]


def _matrices(axes: Any) -> Callable[[Any], Any]:
    """Return the mask of matrices for a given tree, of which parts are missing in `optax.partition`."""

    def mask(params: Any) -> Any:
        keep = lambda names, node: node if isinstance(node, optax.MaskedNode) else is_matrix(names)  # noqa: E731
        return jax.tree.map(keep, axes, params, is_leaf=is_axes)

    return mask


def _muon(config: Muon, axes: Any, rate: Rate, factors: GroupFactors | None) -> optax.GradientTransformationExtraArgs:
    """Build Muon for the kernels of the blocks, each layer separately, and AdamW for the rest.

    It consists of the same optax transformations as `optax.contrib.muon`, which cannot read a clock, decays norm scales
    and uses Nesterov momentum in its Adam.
    """

    def dimensions(names: Axes, node: Any) -> Any:
        sides = matrix_sides(names)
        return node if sides is None else contrib.MuonDimensionNumbers(*sides)

    def scale_by_shape(names: Axes, node: Any) -> Any:
        sides = matrix_sides(names)
        if sides is None:
            return node
        fan_in, fan_out = (math.prod(node.shape[axis] for axis in side) for side in sides)
        return node * max(1.0, fan_out / fan_in) ** 0.5

    def map_axes(function: Callable[[Axes, Any], Any]) -> Callable[..., Any]:
        return lambda updates, *_: jax.tree.map(function, axes, updates, is_leaf=is_axes)

    adam_rate = config.adam_learning_rate / config.learning_rate
    kernels = optax.chain(
        contrib.scale_by_muon(
            ns_steps=config.ns_steps, beta=config.momentum, weight_dimension_numbers=map_axes(dimensions)
        ),
        optax.stateless(map_axes(scale_by_shape)),
        *_decay_and_scale(config, axes, rate, factors),
    )
    rest = optax.chain(
        optax.scale_by_adam(config.b1, config.b2),
        *_decay_and_scale(config, axes, lambda clock: adam_rate * rate(clock), factors),
    )
    labels = jax.tree.map(lambda names: "rest" if matrix_sides(names) is None else "kernels", axes, is_leaf=is_axes)
    return optax.partition({"kernels": kernels, "rest": rest}, labels)


def _schedule_free(
    config: ScheduleFree, axes: Any, rate: Rate, factors: GroupFactors | None
) -> optax.GradientTransformationExtraArgs:
    """Build schedule-free AdamW, whose averaging weights follow the clock's learning rate.

    optax takes a learning rate as a function of its own count; here the transformation is built again in each update
    with the clock's rate. Its state does not depend on that function.
    """
    # Adam without its first moment: the averaging replaces it.
    scaling = optax.scale_by_rms(config.b2, eps=1e-8, eps_in_sqrt=False, bias_correction=True)
    adamw = optax.chain(scaling, *_decay_and_scale(config, axes, rate, factors))

    def transformation(rate: Any) -> optax.GradientTransformationExtraArgs:
        return contrib.schedule_free(adamw, lambda _: rate, b1=config.b1)

    def update(grads: Any, state: Any, params: Any = None, *, clock: Clock, **_: Any) -> tuple[Any, Any]:
        return transformation(rate(clock)).update(grads, state, params, clock=clock)

    return optax.GradientTransformationExtraArgs(transformation(0.0).init, update)


# ---- Adafactor ----

SQUARE_FLOOR = 1e-30  # added to squared gradients (Adafactor's epsilon 1)
SCALE_FLOOR = 1e-3  # lower bound of a parameter's RMS (epsilon 2), so that zeros can move


class AdafactorState(NamedTuple):
    """`count`: int32, number of updates. `first`, `second`: the moments, trees like the parameters."""

    count: Any
    first: Any
    second: Any


def adafactor(
    learning_rate: Rate,
    axes: Any,
    *,
    b1: float,
    decay_exponent: float,
    update_clip: float,
    weight_decay_exponent: float | None,
    factors: GroupFactors | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Build Adafactor as PaLM used it, learning rate included: unfactored, with momentum over the scaled update.

    Shazeer & Stern 2018 (arXiv 1804.04235) sections 6 to 8, with PaLM's settings (Chowdhery et al. 2022, arXiv
    2204.02311, section 5) and T5X's order of operations. `optax.adafactor` factors the second moment and applies
    momentum and weight decay at other points: it would be another optimizer.

    With r the learning rate, k the count of updates from 1 and RMS taken per layer and parameter:
        v <- b2 v + (1 - b2)(g^2 + 1e-30),  b2 = 1 - k^-decay_exponent
        u <- g / sqrt(v),  u <- u / max(1, RMS(u) / update_clip)
        m <- b1 m + (1 - b1) r max(1e-3, RMS(p)) u
        p <- p - m - r^weight_decay_exponent p
    Weight decay applies to every parameter, norm scales and embeddings too, as in T5X. `axes` are the parameters'
    logical axes: where blocks are stacked, each layer has its own RMS, as if it were a separate parameter. Where
    weights are pruned, the RMS is of the others: `update` then takes `active`, the fraction that is not pruned, which
    broadcasts against each parameter. With the `factors` of groups, r is a group's own, and w r replaces
    r^weight_decay_exponent where it has a weight decay w.
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

        rates = jax.tree.map(lambda _: rate, params)
        if factors is not None:
            rates = jax.tree.map(lambda factor: factor * rate, factors.rate)

        def scale(names: Axes, grad: jax.Array, square: jax.Array, param: jax.Array, active: Any, rate: Any) -> Any:
            u = grad * jax.lax.rsqrt(square)
            u = u / jnp.maximum(1.0, _rms(u, names, active) / update_clip)
            return rate * jnp.maximum(SCALE_FLOOR, _rms(param, names, active)) * u

        second = jax.tree.map(
            lambda v, g: (1.0 - fresh) * v + fresh * (jnp.square(g) + SQUARE_FLOOR), state.second, grads
        )
        step = jax.tree.map(scale, axes, grads, second, params, active, rates, is_leaf=is_axes)
        first = jax.tree.map(lambda m, s: b1 * m + (1.0 - b1) * s, state.first, step)
        if factors is None:
            decay = _adafactor_decay(rate, weight_decay_exponent)
            updates = jax.tree.map(lambda m, p: -m - decay * p, first, params)
        else:
            decays = jax.tree.map(
                lambda f, w: jnp.where(jnp.isnan(w), _adafactor_decay(f * rate, weight_decay_exponent), w * f * rate),
                factors.rate,
                factors.weight_decay,
            )
            updates = jax.tree.map(lambda m, p, d: -m - d * p, first, params, decays)
        return updates, AdafactorState(count, first, second)

    return optax.GradientTransformationExtraArgs(init, update)


def _adafactor_decay(rate: Any, exponent: float | None) -> Any:
    return 0.0 if exponent is None else rate**exponent


def _rms(x: jax.Array, names: Axes, active: Any) -> jax.Array:
    """Root mean square of the active weights, per layer where layers are stacked; broadcasts against `x`."""
    summed = tuple(range(1, x.ndim)) if is_stacked(names) else None
    # Where nothing is active there are only zeros, whose mean square is zero.
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=summed, keepdims=True) / jnp.maximum(active, SQUARE_FLOOR))
