"""Pruning around any optimizer: its masks are in the state, its gradients and updates under them."""

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
    """Trees have the parameters' structure, and `optax.MaskedNode` where nothing is pruned."""

    density: Any  # int32 scalar, what the masks were made for, in units of 1 / DENSITIES
    masks: Any  # uint8, packed (packing.py): 1 bit per weight
    active: Any  # float32 [layers, 1, ...] or [1, ...], the share of active weights in each layer's array
    sums: Any  # float32, of criteria that look at more than one step; () for others
    inner: Any  # the optimizer's state


class MaskSchedule(NamedTuple):
    """When masks change: before these steps, to these densities."""

    steps: np.ndarray  # int32, ascending, the first 0
    densities: np.ndarray  # int32, in units of 1 / DENSITIES

    @classmethod
    def of(cls, timeline: Timeline) -> MaskSchedule:
        """As the phases of a timeline say."""
        phases = [(phase.step, round(phase.density * DENSITIES)) for phase in timeline.phases]
        return cls(*(np.array(column, np.int32) for column in zip(*phases, strict=True)))

    def density(self, step: jax.Array) -> jax.Array:
        """What holds for a step."""
        return jnp.asarray(self.densities)[jnp.searchsorted(jnp.asarray(self.steps), step, side="right") - 1]

    def regrow_fraction(self, regrowth: Regrowth, step: jax.Array) -> jax.Array:
        """The share of the active weights that others take the place of before a step, 0 where nothing changes."""
        first, last = self.steps[min(1, len(self.steps) - 1)], self.steps[-1]
        passed = (step - first) / max(1, last - first)
        share = regrowth.fraction * (0.5 * (1.0 + jnp.cos(jnp.pi * passed)) if regrowth.falls else 1.0)
        return jnp.where(jnp.any(jnp.asarray(self.steps[1:]) == step), share, 0.0)


def prune(
    optimizer: optax.GradientTransformationExtraArgs,
    config: Prune,
    groups: Sequence[PruneGroup],
    timeline: Timeline,
    arrays: Any,
) -> optax.GradientTransformationExtraArgs:
    """`optimizer`, with as many weights of `groups` at zero as the phases of `timeline` say.

    `update` takes the dense gradients, `clock=Clock`, and what `optimizer` takes; its updates make a weight that goes
    exactly zero. Masks that hold from step k on are made in the update of step k - 1, of the weights and gradients
    there; where the train step drops that one, they come with the next.

    `optimizer` sees gradients under the masks, so that moments of what is pruned stay zero, and clipping does not count
    it. Where masks change, its moments get the new ones. Weights that come back are zero, their moments too. It is
    given `active=`, the share of active weights in each layer's array, as a tree like the parameters.

    Args:
      arrays: `models.param_specs` the model.
    """
    masking, places = MaskBuilder(config, tuple(groups)), PrunedParams.of(arrays, groups)
    pruner = _Pruner(optimizer, config, masking, places, MaskSchedule.of(timeline))
    return optax.GradientTransformationExtraArgs(pruner.init, pruner.update)


@dataclass(frozen=True)
class _Pruner:
    """The two functions of the transformation, and what both need. Lists are of the arrays that are pruned."""

    optimizer: optax.GradientTransformationExtraArgs
    config: Prune
    masking: MaskBuilder
    places: PrunedParams
    timing: MaskSchedule

    def init(self, params: Any) -> PruneState:
        places, criterion, first = self.places, self.config.criterion, int(self.timing.densities[0])
        weights = places.pick(params)
        masks = self.masking.first(first / DENSITIES, criteria.first_scores(self.config, weights))
        return PruneState(
            density=jnp.int32(first),
            masks=places.put([pack(mask) for mask in masks]),
            active=places.put(self.masking.active_shares(masks)),
            sums=places.put([jnp.zeros_like(w) for w in weights]) if criteria.keeps_sums(criterion) else (),
            inner=self.optimizer.init(places.masked(params, masks)),
        )

    def update(
        self, grads: Any, state: PruneState, params: Any = None, *, clock: Clock, **extra: Any
    ) -> tuple[Any, PruneState]:
        places, following = self.places, clock.step + 1
        weights, dense = places.pick(params), places.pick(grads)
        sums = criteria.accumulate_sums(self.config.criterion, places.pick(state.sums), weights, dense)
        state = state._replace(sums=places.put(sums) if sums else ())
        under = lambda masks, state: self._under(masks, grads, state, params, clock=clock, **extra)  # noqa: E731

        def changed() -> tuple[Any, PruneState]:
            masks = self._new_masks(state, weights, dense, following)
            return under(masks, self._with(masks, self.timing.density(following), state))

        # Both branches hold the whole update, so that between changes nothing is copied.
        return jax.lax.cond(
            self._due(state, following), changed, lambda: under(places.unpacked(state.masks, weights), state)
        )

    def _under(
        self, masks: list[jax.Array], grads: Any, state: PruneState, params: Any, *, grad_norm: Any = None, **extra: Any
    ) -> tuple[Any, PruneState]:
        """The optimizer's update under masks; it takes what is pruned to zero."""
        places = self.places
        sparse = places.masked(grads, masks)
        norm = None if grad_norm is None else optax.tree.norm(sparse)
        active = jax.tree.map(lambda share: 1.0 if is_hole(share) else share, state.active, is_leaf=is_hole)
        updates, inner = self.optimizer.update(sparse, state.inner, params, grad_norm=norm, active=active, **extra)
        return places.masked(updates, masks, [-w for w in places.pick(params)]), state._replace(inner=inner)

    def _due(self, state: PruneState, step: jax.Array) -> jax.Array:
        """Whether masks change before `step`."""
        due = self.timing.density(step) != state.density
        regrowth = self.config.regrowth
        return due if regrowth is None else due | (self.timing.regrow_fraction(regrowth, step) > 0.0)

    def _new_masks(
        self, state: PruneState, weights: list[jax.Array], grads: list[jax.Array], step: jax.Array
    ) -> list[jax.Array]:
        """Those that hold from `step` on."""
        scores = criteria.scores(self.config.criterion, weights, self.places.pick(state.sums), step)
        regrowth, returning = self.config.regrowth, weights
        if regrowth is not None and regrowth.by == "gradient":
            returning = [jnp.abs(g) for g in grads]
        elif self.masking.grows:
            returning = criteria.random_scores(regrowth.seed if regrowth else 0, step, weights)
        swapped = self.timing.regrow_fraction(regrowth, step) if regrowth else 0.0
        before = self.places.unpacked(state.masks, weights)
        return self.masking.chosen(self.timing.density(step), scores, before, returning, swapped)

    def _with(self, masks: list[jax.Array], density: jax.Array, state: PruneState) -> PruneState:
        """The state with new masks, on moments too."""
        return state._replace(
            density=density,
            masks=self.places.put([pack(mask) for mask in masks]),
            active=self.places.put(self.masking.active_shares(masks)),
            inner=self.places.moments_masked(state.inner, masks),
        )


def apply_masks(opt_state: Any, params: Any) -> Any:
    """Parameters as an optimizer's state wants them before the first step: under its masks, if it has any."""
    if not isinstance(opt_state, PruneState):
        return params
    one = lambda bits, p: p if is_hole(bits) else jnp.where(unpack(bits, p.shape[-1]), p, 0.0)  # noqa: E731
    return jax.tree.map(one, opt_state.masks, params, is_leaf=is_hole)
