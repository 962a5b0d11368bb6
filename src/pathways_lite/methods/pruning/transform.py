"""Pruning as a wrapper of any optimizer: masks are part of its state and apply to gradients and updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pathways_lite.ledger import Clock, Timeline
from pathways_lite.methods.pruning import criteria
from pathways_lite.methods.pruning.masks import MaskBuilder
from pathways_lite.methods.pruning.pruned_params import PrunedParams, is_hole, pack, unpack
from pathways_lite.methods.pruning.schedules import DENSITIES
from pathways_lite.methods.pruning.structures import PruneGroup
from pathways_lite.recipe import Prune, Regrowth


class PruneState(NamedTuple):
    """State of pruning. Trees have the parameters' structure, with `optax.MaskedNode` where nothing is pruned."""

    density: Any  # int32 scalar, the density of the masks, in units of 1 / DENSITIES
    masks: Any  # uint8, packed (`pruned_params.pack`): 1 bit per weight
    active: Any  # float32 [layers, 1, ...] or [1, ...], the fraction of active weights in each layer's array
    sums: Any  # float32, for criteria with sums over steps; () for others
    inner: Any  # the optimizer's state


class MaskSchedule(NamedTuple):
    """The steps before which masks change, and their densities."""

    steps: np.ndarray  # int32, ascending, the first 0
    densities: np.ndarray  # int32, in units of 1 / DENSITIES

    @classmethod
    def from_timeline(cls, timeline: Timeline) -> MaskSchedule:
        """Build it from the phases of a timeline."""
        phases = [(phase.step, round(phase.density * DENSITIES)) for phase in timeline.phases]
        return cls(*(np.array(column, np.int32) for column in zip(*phases, strict=True)))

    def density(self, step: jax.Array) -> jax.Array:
        """Return the density that holds for a step."""
        return jnp.asarray(self.densities)[jnp.searchsorted(jnp.asarray(self.steps), step, side="right") - 1]

    def regrow_fraction(self, regrowth: Regrowth, step: jax.Array) -> jax.Array:
        """Return the fraction of active weights that regrown ones replace before a step; 0 between mask updates."""
        first, last = self.steps[min(1, len(self.steps) - 1)], self.steps[-1]
        passed = (step - first) / max(1, last - first)
        fraction = regrowth.fraction * (0.5 * (1.0 + jnp.cos(jnp.pi * passed)) if regrowth.falls else 1.0)
        return jnp.where(jnp.any(jnp.asarray(self.steps[1:]) == step), fraction, 0.0)


def prune(
    optimizer: optax.GradientTransformationExtraArgs,
    config: Prune,
    groups: Sequence[PruneGroup],
    timeline: Timeline,
    arrays: Any,
) -> optax.GradientTransformationExtraArgs:
    """Wrap `optimizer` to prune `groups` to the densities of the phases of `timeline`.

    `update` takes the dense gradients, `clock=Clock`, and the arguments of `optimizer`. Its updates set pruned weights
    to exactly zero. The update of step k - 1 builds the masks that hold from step k on, from its weights and gradients;
    where the train step drops that update, the next one builds them.

    `optimizer` gets gradients under the masks, so that moments of pruned weights stay zero and clipping ignores them.
    Where masks change, moments are masked again. Regrown weights start at zero, and so do their moments. `optimizer`
    also gets `active=`, the fraction of active weights in each layer's array, as a tree like the parameters.

    Args:
      arrays: `models.param_specs` of the model.
    """
    builder, pruned = MaskBuilder(config, tuple(groups)), PrunedParams.from_groups(arrays, groups)
    pruner = _Pruner(optimizer, config, builder, pruned, MaskSchedule.from_timeline(timeline))
    return optax.GradientTransformationExtraArgs(pruner.init, pruner.update)


@dataclass(frozen=True)
class _Pruner:
    """The transformation's `init` and `update`, and what both need. Lists are of the pruned arrays."""

    optimizer: optax.GradientTransformationExtraArgs
    config: Prune
    builder: MaskBuilder
    pruned: PrunedParams
    schedule: MaskSchedule

    def init(self, params: Any) -> PruneState:
        pruned, criterion, density = self.pruned, self.config.criterion, int(self.schedule.densities[0])
        weights = pruned.pick(params)
        masks = self.builder.build_initial(density / DENSITIES, criteria.initial_scores(self.config, weights))
        return PruneState(
            density=jnp.int32(density),
            masks=pruned.put([pack(mask) for mask in masks]),
            active=pruned.put(self.builder.active_fractions(masks)),
            sums=pruned.put([jnp.zeros_like(w) for w in weights]) if criteria.needs_sums(criterion) else (),
            inner=self.optimizer.init(pruned.apply_masks(params, masks)),
        )

    def update(
        self, grads: Any, state: PruneState, params: Any = None, *, clock: Clock, **extra: Any
    ) -> tuple[Any, PruneState]:
        pruned, next_step = self.pruned, clock.step + 1
        weights, dense = pruned.pick(params), pruned.pick(grads)
        sums = criteria.accumulate_sums(self.config.criterion, pruned.pick(state.sums), weights, dense)
        state = state._replace(sums=pruned.put(sums) if sums else ())
        step_under = lambda masks, state: self._step_under(masks, grads, state, params, clock=clock, **extra)  # noqa: E731

        def change_masks() -> tuple[Any, PruneState]:
            masks = self._build_masks(state, weights, dense, next_step)
            return step_under(masks, self._replace_masks(masks, self.schedule.density(next_step), state))

        # Both branches hold the whole update, so that between changes nothing is copied.
        return jax.lax.cond(
            self._is_due(state, next_step),
            change_masks,
            lambda: step_under(pruned.unpack_masks(state.masks, weights), state),
        )

    def _step_under(
        self, masks: list[jax.Array], grads: Any, state: PruneState, params: Any, *, grad_norm: Any = None, **extra: Any
    ) -> tuple[Any, PruneState]:
        """Return the optimizer's update under masks, which sets pruned weights to zero, and the new state."""
        pruned = self.pruned
        sparse = pruned.apply_masks(grads, masks)
        norm = None if grad_norm is None else optax.tree.norm(sparse)
        active = jax.tree.map(lambda fraction: 1.0 if is_hole(fraction) else fraction, state.active, is_leaf=is_hole)
        updates, inner = self.optimizer.update(sparse, state.inner, params, grad_norm=norm, active=active, **extra)
        return pruned.apply_masks(updates, masks, [-w for w in pruned.pick(params)]), state._replace(inner=inner)

    def _is_due(self, state: PruneState, step: jax.Array) -> jax.Array:
        """Whether masks change before `step`."""
        due = self.schedule.density(step) != state.density
        regrowth = self.config.regrowth
        return due if regrowth is None else due | (self.schedule.regrow_fraction(regrowth, step) > 0.0)

    def _build_masks(
        self, state: PruneState, weights: list[jax.Array], grads: list[jax.Array], step: jax.Array
    ) -> list[jax.Array]:
        """Build the masks that hold from `step` on."""
        scores = criteria.scores(self.config.criterion, weights, self.pruned.pick(state.sums), step)
        regrowth, regrow_scores = self.config.regrowth, weights
        if regrowth is not None and regrowth.by == "gradient":
            regrow_scores = [jnp.abs(g) for g in grads]
        elif self.builder.regrows:
            regrow_scores = criteria.random_scores(regrowth.seed if regrowth else 0, step, weights)
        regrow_fraction = self.schedule.regrow_fraction(regrowth, step) if regrowth else 0.0
        active = self.pruned.unpack_masks(state.masks, weights)
        return self.builder.build(self.schedule.density(step), scores, active, regrow_scores, regrow_fraction)

    def _replace_masks(self, masks: list[jax.Array], density: jax.Array, state: PruneState) -> PruneState:
        """Return the state with new masks, applied to the moments too."""
        return state._replace(
            density=density,
            masks=self.pruned.put([pack(mask) for mask in masks]),
            active=self.pruned.put(self.builder.active_fractions(masks)),
            inner=self.pruned.mask_moments(state.inner, masks),
        )


def apply_masks(opt_state: Any, params: Any) -> Any:
    """Apply the masks of an optimizer's state, if it has any, to the parameters before the first step."""
    if not isinstance(opt_state, PruneState):
        return params
    mask = lambda bits, p: p if is_hole(bits) else jnp.where(unpack(bits, p.shape[-1]), p, 0.0)  # noqa: E731
    return jax.tree.map(mask, opt_state.masks, params, is_leaf=is_hole)
