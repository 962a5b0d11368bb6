"""The masks of a density: which units stay, which come back. The same way for every structure and criterion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.methods.pruning import thresholds
from pathways_lite.methods.pruning.structures import PruneGroup, input_axis
from pathways_lite.recipe import NM, Prune

Weights = Sequence[jax.Array]
"""Something for every weight, an array for each of the groups' members."""

FIRST = np.uint32((1 << 32) - 1)
"""The greatest key: of what is chosen before everything else."""


@dataclass(frozen=True)
class MaskBuilder:
    """Masks on the weights of `groups`, in the order of their members."""

    prune: Prune
    groups: tuple[PruneGroup, ...]

    @property
    def grows(self) -> bool:
        """Whether anything ever comes back."""
        return self.prune.regrowth is not None or self.prune.sparsity < self.prune.start_sparsity

    def chosen(
        self, density: jax.Array, scores: Weights, active: Weights, returning: Weights, swapped: jax.Array | float
    ) -> list[jax.Array]:
        """Masks under which just as many units are active as the density says.

        Args:
          density: int32, in units of 1 / DENSITIES.
          scores: of the active weights; of their units those with the lowest go.
          active: masks so far.
          returning: the inactive units with the highest of these come back, where there are to be more active ones.
          swapped: share of the units to be active that come back, others going for them. Not looked at, as `returning`,
            where nothing `grows`.
        """
        together = self.prune.allocation == "global"
        counts = [jnp.broadcast_to(thresholds.kept_counts(g.units, density), (g.sets,)) for g in self.groups]
        living = [units > 0.0 for units in self._units([jnp.float32(mask) for mask in active])]
        keys = [
            jnp.where(lives, jnp.maximum(thresholds.ordered(units), 1), 0)
            for units, lives in zip(self._units(scores), living, strict=True)
        ]
        if not self.grows:
            return self._on_weights(thresholds.largest(self._patterned(keys), counts, together=together))
        fewer = [count - jnp.uint32(swapped * count) for count in counts]
        stay = thresholds.largest(self._patterned(keys), fewer, together=together)
        stay = [chosen & lives for chosen, lives in zip(stay, living, strict=True)]  # there may be fewer than that
        back = [
            jnp.where(stays, FIRST, jnp.minimum(thresholds.ordered(units), FIRST - 1))
            for units, stays in zip(self._units(returning), stay, strict=True)
        ]
        return self._on_weights(thresholds.largest(back, counts, together=together))

    def first(self, density: float, scores: Weights) -> list[jax.Array]:
        """The masks before the first step."""
        everything = [jnp.ones(x.shape, bool) for x in scores]
        if density == 1.0:
            return everything
        return self.chosen(jnp.int32(density * thresholds.DENSITIES), scores, everything, scores, 0.0)

    def active_shares(self, masks: Weights) -> list[jax.Array]:
        """The share of active weights in each layer's array: float32 [layers, 1, ...], or [1, ...] if not stacked."""
        arrays = [member.array for group in self.groups for member in group.members]
        over = [tuple(range(array.stacked, mask.ndim)) for array, mask in zip(arrays, masks, strict=True)]
        return [jnp.mean(mask, axis=axes, keepdims=True) for mask, axes in zip(masks, over, strict=True)]

    def _units(self, weights: Weights) -> list[jax.Array]:
        left = iter(weights)
        return [group.scores([next(left) for _ in group.members]) for group in self.groups]

    def _on_weights(self, units: Weights) -> list[jax.Array]:
        return [mask for group, chosen in zip(self.groups, units, strict=True) for mask in group.masks(chosen)]

    def _patterned(self, keys: list[jax.Array]) -> list[jax.Array]:
        """Of N:M, those that stay at the end are chosen before all others."""
        pattern = self.prune.structure
        if not isinstance(pattern, NM):
            return keys
        axes = [input_axis(array) + (not array.stacked) for array in (group.members[0].array for group in self.groups)]
        return [jnp.where(_best(x, axis, pattern), FIRST, x) for x, axis in zip(keys, axes, strict=True)]


def _best(keys: jax.Array, axis: int, pattern: NM) -> jax.Array:
    """Which are among the n largest of their m neighbours along an axis, the first of equal ones."""
    x = keys.reshape(*keys.shape[:axis], -1, pattern.m, *keys.shape[axis + 1 :])
    mine, theirs = jnp.expand_dims(x, axis + 2), jnp.expand_dims(x, axis + 1)
    places = jnp.arange(pattern.m)
    earlier = (places[None, :] < places[:, None]).reshape(pattern.m, pattern.m, *[1] * (keys.ndim - axis - 1))
    ahead = jnp.sum((theirs > mine) | ((theirs == mine) & earlier), axis=axis + 2)
    return (ahead < pattern.n).reshape(keys.shape)
