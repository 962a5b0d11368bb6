"""Pruning around any optimizer: its masks are in the state, its gradients and updates under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pathways_lite.ledger import Clock, Course
from pathways_lite.methods.growth import Array
from pathways_lite.methods.pruning import criteria
from pathways_lite.methods.pruning.masks import Masking
from pathways_lite.methods.pruning.packing import pack, unpack
from pathways_lite.methods.pruning.schedules import DENSITIES
from pathways_lite.methods.pruning.structures import Group
from pathways_lite.recipe import Prune, Regrowth


class PruneState(NamedTuple):
    """Trees have the parameters' structure, and `optax.MaskedNode` where nothing is pruned."""

    density: Any  # int32 scalar, what the masks were made for, in units of 1 / DENSITIES
    masks: Any  # uint8, packed (packing.py): 1 bit per weight
    active: Any  # float32 [layers, 1, ...] or [1, ...], the share of active weights in each layer's array
    sums: Any  # float32, of criteria that look at more than one step; () for others
    inner: Any  # the optimizer's state


@dataclass(frozen=True)
class Places:
    """Where the pruned weights are among the parameters."""

    structure: Any  # of the parameters' tree
    arrays: tuple[Array, ...]  # all, in its order
    pruned: tuple[Array, ...]  # in the order of the groups' members

    @classmethod
    def of(cls, arrays: Any, groups: Sequence[Group]) -> Places:
        """`arrays`: `growth.arrays_of` the model."""
        pruned = tuple(member.array for group in groups for member in group.members)
        return cls(jax.tree.structure(arrays), tuple(jax.tree.leaves(arrays)), pruned)

    def pick(self, tree: Any) -> list[jax.Array]:
        """The pruned ones' leaves of a tree like the parameters; none of an empty one."""
        if tree == ():
            return []
        leaves = jax.tree.leaves(tree, is_leaf=_is_hole)
        named = {array.name: leaf for array, leaf in zip(self.arrays, leaves, strict=True)}
        return [named[array.name] for array in self.pruned]

    def put(self, leaves: Sequence[Any]) -> Any:
        """A tree like the parameters of the pruned ones' leaves, and holes."""
        named = {array.name: leaf for array, leaf in zip(self.pruned, leaves, strict=True)}
        return jax.tree.unflatten(self.structure, [named.get(a.name, optax.MaskedNode()) for a in self.arrays])

    def unpacked(self, masks: Any, weights: Sequence[jax.Array]) -> list[jax.Array]:
        """The pruned ones' masks of a tree of packed ones."""
        return [unpack(bits, w.shape[-1]) for bits, w in zip(self.pick(masks), weights, strict=True)]

    def masked(self, tree: Any, masks: Sequence[jax.Array], other: Sequence[Any] | None = None) -> Any:
        """A tree like the parameters with zeros, or `other`, where masks are false."""
        filled = zip(self.pruned, masks, other or [0.0] * len(masks), strict=True)
        named = {array.name: (mask, value) for array, mask, value in filled}
        leaves = [
            jnp.where(named[array.name][0], leaf, named[array.name][1]) if array.name in named else leaf
            for array, leaf in zip(self.arrays, jax.tree.leaves(tree), strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def moments_masked(self, state: Any, masks: Sequence[jax.Array]) -> Any:
        """An optimizer's state with zeros in what is called, and shaped, as a parameter, where masks are false."""
        named = {array.name: mask for array, mask in zip(self.pruned, masks, strict=True)}

        def one(path: Any, leaf: jax.Array) -> jax.Array:
            parts = [jax.tree_util.keystr((part,), simple=True) for part in path]
            found = (named.get(".".join(parts[at:])) for at in range(len(parts)))
            mask = next((mask for mask in found if mask is not None and mask.shape == leaf.shape), None)
            return leaf if mask is None else jnp.where(mask, leaf, jnp.zeros_like(leaf))

        return jax.tree.map_with_path(one, state)


class Timing(NamedTuple):
    """When masks change: before these steps, to these densities."""

    steps: np.ndarray  # int32, ascending, the first 0
    densities: np.ndarray  # int32, in units of 1 / DENSITIES

    @classmethod
    def of(cls, course: Course) -> Timing:
        """As the phases of a course say."""
        phases = [(phase.step, round(phase.density * DENSITIES)) for phase in course.phases]
        return cls(*(np.array(column, np.int32) for column in zip(*phases, strict=True)))

    def density(self, step: jax.Array) -> jax.Array:
        """What holds for a step."""
        return jnp.asarray(self.densities)[jnp.searchsorted(jnp.asarray(self.steps), step, side="right") - 1]

    def swapped(self, regrowth: Regrowth, step: jax.Array) -> jax.Array:
        """The share of the active weights that others take the place of before a step, 0 where nothing changes."""
        first, last = self.steps[min(1, len(self.steps) - 1)], self.steps[-1]
        passed = (step - first) / max(1, last - first)
        share = regrowth.share * (0.5 * (1.0 + jnp.cos(jnp.pi * passed)) if regrowth.falls else 1.0)
        return jnp.where(jnp.any(jnp.asarray(self.steps[1:]) == step), share, 0.0)


def prune(
    optimizer: optax.GradientTransformationExtraArgs,
    config: Prune,
    groups: Sequence[Group],
    course: Course,
    arrays: Any,
) -> optax.GradientTransformationExtraArgs:
    """`optimizer`, with as many weights of `groups` at zero as the phases of `course` say.

    `update` takes the dense gradients, `clock=Clock`, and what `optimizer` takes; its updates make a weight that goes
    exactly zero. Masks that hold from step k on are made in the update of step k - 1, of the weights and gradients
    there; where the train step drops that one, they come with the next.

    `optimizer` sees gradients under the masks, so that moments of what is pruned stay zero, and clipping does not count
    it. Where masks change, its moments get the new ones. Weights that come back are zero, their moments too. It is
    given `active=`, the share of active weights in each layer's array, as a tree like the parameters.

    Args:
      arrays: `growth.arrays_of` the model.
    """
    masking, places, timing = Masking(config, tuple(groups)), Places.of(arrays, groups), Timing.of(course)
    regrowth = config.regrowth

    def init(params: Any) -> PruneState:
        weights = places.pick(params)
        masks = masking.first(course.phases[0].density, criteria.first_scores(config, weights))
        return PruneState(
            density=jnp.int32(timing.densities[0]),
            masks=places.put([pack(mask) for mask in masks]),
            active=places.put(masking.active_shares(masks)),
            sums=places.put([jnp.zeros_like(w) for w in weights]) if criteria.keeps_sums(config.criterion) else (),
            inner=optimizer.init(places.masked(params, masks)),
        )

    def new_masks(state: PruneState, weights: list[Any], grads: list[Any], step: jax.Array) -> list[jax.Array]:
        """Those that hold from `step` on."""
        scores = criteria.scores(config.criterion, weights, places.pick(state.sums), step)
        returning = weights
        if regrowth is not None and regrowth.by == "gradient":
            returning = [jnp.abs(g) for g in grads]
        elif masking.grows:
            returning = criteria.random(regrowth.seed if regrowth else 0, step, weights)
        swapped = timing.swapped(regrowth, step) if regrowth else 0.0
        return masking.chosen(timing.density(step), scores, places.unpacked(state.masks, weights), returning, swapped)

    def update(
        grads: Any, state: PruneState, params: Any = None, *, clock: Clock, grad_norm: Any = None, **extra: Any
    ) -> tuple[Any, PruneState]:
        weights, dense, following = places.pick(params), places.pick(grads), clock.step + 1
        sums = criteria.summed(config.criterion, places.pick(state.sums), weights, dense)
        state = state._replace(sums=places.put(sums) if sums else ())

        def under(masks: list[jax.Array], state: PruneState) -> tuple[Any, PruneState]:
            sparse = places.masked(grads, masks)
            norm = None if grad_norm is None else optax.tree.norm(sparse)
            active = jax.tree.map(lambda share: 1.0 if _is_hole(share) else share, state.active, is_leaf=_is_hole)
            extras = {**extra, "clock": clock, "grad_norm": norm, "active": active}
            updates, inner = optimizer.update(sparse, state.inner, params, **extras)
            return places.masked(updates, masks, [-w for w in weights]), state._replace(inner=inner)

        def changed() -> tuple[Any, PruneState]:
            masks = new_masks(state, weights, dense, following)
            return under(masks, state._replace(
                density=timing.density(following),
                masks=places.put([pack(mask) for mask in masks]),
                active=places.put(masking.active_shares(masks)),
                inner=places.moments_masked(state.inner, masks),
            ))  # fmt: skip

        due = timing.density(following) != state.density
        if regrowth is not None:
            due |= timing.swapped(regrowth, following) > 0.0
        # Both branches hold the whole update, so that between changes nothing is copied.
        return jax.lax.cond(due, changed, lambda: under(places.unpacked(state.masks, weights), state))

    return optax.GradientTransformationExtraArgs(init, update)


def under_masks(opt_state: Any, params: Any) -> Any:
    """Parameters as an optimizer's state wants them before the first step: under its masks, if it has any."""
    if not isinstance(opt_state, PruneState):
        return params
    one = lambda bits, p: p if _is_hole(bits) else jnp.where(unpack(bits, p.shape[-1]), p, 0.0)  # noqa: E731
    return jax.tree.map(one, opt_state.masks, params, is_leaf=_is_hole)


def _is_hole(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
