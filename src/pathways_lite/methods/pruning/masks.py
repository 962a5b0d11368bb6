"""Masks of a given density: which units stay and which regrow, for every structure and criterion alike."""

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
"""A value for every weight: an array for each of the groups' members."""

HIGHEST = np.uint32((1 << 32) - 1)
"""The largest key: its units are selected before all others."""


@dataclass(frozen=True)
class MaskBuilder:
    """Builds masks on the weights of `groups`, in the order of their members."""

    prune: Prune
    groups: tuple[PruneGroup, ...]

    @property
    def regrows(self) -> bool:
        """Whether pruned units can ever become active again."""
        return self.prune.regrowth is not None or self.prune.sparsity < self.prune.start_sparsity

    def build(
        self,
        density: jax.Array,
        scores: Weights,
        active: Weights,
        regrow_scores: Weights,
        regrow_fraction: jax.Array | float,
    ) -> list[jax.Array]:
        """Build masks with exactly the number of active units that the density gives.

        Args:
          density: int32, in units of 1 / DENSITIES.
          scores: of the active weights; the units with the lowest are pruned.
          active: the masks so far.
          regrow_scores: of the inactive weights; the units with the highest regrow, up to the density.
          regrow_fraction: fraction of the active units that regrown units replace. Ignored, as `regrow_scores`, unless
            the builder `regrows`.
        """
        is_global = self.prune.allocation == "global"
        counts = [jnp.broadcast_to(thresholds.kept_counts(g.units, density), (g.sets,)) for g in self.groups]
        alive = [units > 0.0 for units in self._unit_scores([jnp.float32(mask) for mask in active])]
        keys = [
            jnp.where(is_alive, jnp.maximum(thresholds.order_keys(units), 1), 0)
            for units, is_alive in zip(self._unit_scores(scores), alive, strict=True)
        ]
        if not self.regrows:
            return self._expand(thresholds.select_largest(self._prefer_pattern(keys), counts, is_global=is_global))
        stay_counts = [count - jnp.uint32(regrow_fraction * count) for count in counts]
        stay = thresholds.select_largest(self._prefer_pattern(keys), stay_counts, is_global=is_global)
        stay = [mask & is_alive for mask, is_alive in zip(stay, alive, strict=True)]  # fewer may be alive
        regrow_keys = [
            jnp.where(mask, HIGHEST, jnp.minimum(thresholds.order_keys(units), HIGHEST - 1))
            for units, mask in zip(self._unit_scores(regrow_scores), stay, strict=True)
        ]
        return self._expand(thresholds.select_largest(regrow_keys, counts, is_global=is_global))

    def build_initial(self, density: float, scores: Weights) -> list[jax.Array]:
        """Build the masks before the first step."""
        all_active = [jnp.ones(x.shape, bool) for x in scores]
        if density == 1.0:
            return all_active
        return self.build(jnp.int32(density * thresholds.DENSITIES), scores, all_active, scores, 0.0)

    def active_fractions(self, masks: Weights) -> list[jax.Array]:
        """Return the fraction of active weights by layer and array: float32 [layers, 1, ...], or [1, ...]."""
        arrays = [member.array for group in self.groups for member in group.members]
        reduced = [tuple(range(array.stacked, mask.ndim)) for array, mask in zip(arrays, masks, strict=True)]
        return [jnp.mean(mask, axis=axes, keepdims=True) for mask, axes in zip(masks, reduced, strict=True)]

    def _unit_scores(self, weights: Weights) -> list[jax.Array]:
        remaining = iter(weights)
        return [group.scores([next(remaining) for _ in group.members]) for group in self.groups]

    def _expand(self, unit_masks: Weights) -> list[jax.Array]:
        return [mask for group, units in zip(self.groups, unit_masks, strict=True) for mask in group.masks(units)]

    def _prefer_pattern(self, keys: list[jax.Array]) -> list[jax.Array]:
        """Give the weights that the final N:M pattern keeps the highest key; other structures: no change."""
        pattern = self.prune.structure
        if not isinstance(pattern, NM):
            return keys
        axes = [input_axis(array) + (not array.stacked) for array in (group.members[0].array for group in self.groups)]
        return [jnp.where(_is_in_pattern(x, axis, pattern), HIGHEST, x) for x, axis in zip(keys, axes, strict=True)]


def _is_in_pattern(keys: jax.Array, axis: int, pattern: NM) -> jax.Array:
    """Whether each key is among the n largest of its m neighbors along an axis; the first of equal keys wins."""
    x = keys.reshape(*keys.shape[:axis], -1, pattern.m, *keys.shape[axis + 1 :])
    key, neighbor = jnp.expand_dims(x, axis + 2), jnp.expand_dims(x, axis + 1)
    positions = jnp.arange(pattern.m)
    earlier = (positions[None, :] < positions[:, None]).reshape(pattern.m, pattern.m, *[1] * (keys.ndim - axis - 1))
    rank = jnp.sum((neighbor > key) | ((neighbor == key) & earlier), axis=axis + 2)
    return (rank < pattern.n).reshape(keys.shape)
