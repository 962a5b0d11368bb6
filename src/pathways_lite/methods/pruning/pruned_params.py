"""Convert between trees like the parameters and the flat list of pruned arrays; pack masks into bits.

Masks are stored eight to a byte along an array's last axis. A packed mask has its parameter's axes, the last one an
eighth as long, so it is sharded as the parameter is, and each device packs and unpacks its own shard, where that is
whole bytes. Packing along the stacked layers instead, which no rule shards, would waste bits in models whose depth is
not a multiple of eight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pathways_lite.methods.pruning.structures import PruneGroup
from pathways_lite.models.params import ParamSpec


def pack(mask: jax.Array) -> jax.Array:
    """Pack a boolean array [..., n] into uint8 [..., ceil(n / 8)], the first in the lowest bit, zeros at the end."""
    size = mask.shape[-1]
    if size % 8:
        mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, -size % 8)])
    bits = mask.reshape(*mask.shape[:-1], -1, 8).astype(jnp.uint8)
    return jnp.sum(bits << jnp.arange(8, dtype=jnp.uint8), axis=-1, dtype=jnp.uint8)


def unpack(packed: jax.Array, size: int) -> jax.Array:
    """Unpack to the boolean array [..., size]."""
    bits = (packed[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
    return bits.reshape(*packed.shape[:-1], -1)[..., :size].astype(bool)


def pack_np(mask: np.ndarray) -> np.ndarray:
    """Pack in host memory, as `pack`."""
    return np.packbits(mask, axis=-1, bitorder="little")


def unpack_np(bits: np.ndarray, size: int) -> np.ndarray:
    """Unpack in host memory, as `unpack`."""
    return np.unpackbits(bits, axis=-1, count=size, bitorder="little").astype(bool)


def is_hole(node: Any) -> bool:
    """Whether a tree like the parameters has no leaf here."""
    return isinstance(node, optax.MaskedNode)


@dataclass(frozen=True)
class PrunedParams:
    """The pruned arrays among the parameters."""

    structure: Any  # of the parameters' tree
    arrays: tuple[ParamSpec, ...]  # all, in its order
    pruned: tuple[ParamSpec, ...]  # in the order of the groups' members

    @classmethod
    def from_groups(cls, arrays: Any, groups: Sequence[PruneGroup]) -> PrunedParams:
        """Build it from `arrays` (`models.param_specs` of the model) and the groups that are pruned."""
        pruned = tuple(member.array for group in groups for member in group.members)
        return cls(jax.tree.structure(arrays), tuple(jax.tree.leaves(arrays)), pruned)

    def pick(self, tree: Any) -> list[jax.Array]:
        """List the leaves of pruned arrays in a tree like the parameters; [] for an empty tree."""
        if tree == ():
            return []
        leaves = jax.tree.leaves(tree, is_leaf=is_hole)
        named = {array.name: leaf for array, leaf in zip(self.arrays, leaves, strict=True)}
        return [named[array.name] for array in self.pruned]

    def put(self, leaves: Sequence[Any]) -> Any:
        """Build a tree like the parameters from leaves of the pruned arrays, with holes elsewhere."""
        named = {array.name: leaf for array, leaf in zip(self.pruned, leaves, strict=True)}
        return jax.tree.unflatten(self.structure, [named.get(a.name, optax.MaskedNode()) for a in self.arrays])

    def unpack_masks(self, masks: Any, weights: Sequence[jax.Array]) -> list[jax.Array]:
        """List the masks of the pruned arrays in a tree of packed masks."""
        return [unpack(bits, w.shape[-1]) for bits, w in zip(self.pick(masks), weights, strict=True)]

    def apply_masks(self, tree: Any, masks: Sequence[jax.Array], other: Sequence[Any] | None = None) -> Any:
        """Replace the leaves of a tree like the parameters by zeros, or `other`, where masks are false."""
        filled = zip(self.pruned, masks, other or [0.0] * len(masks), strict=True)
        named = {array.name: (mask, value) for array, mask, value in filled}
        leaves = [
            jnp.where(named[array.name][0], leaf, named[array.name][1]) if array.name in named else leaf
            for array, leaf in zip(self.arrays, jax.tree.leaves(tree), strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def mask_moments(self, state: Any, masks: Sequence[jax.Array]) -> Any:
        """Zero an optimizer's moments where masks are false: leaves with the name and shape of a parameter."""
        named = {array.name: mask for array, mask in zip(self.pruned, masks, strict=True)}

        def mask_leaf(path: Any, leaf: jax.Array) -> jax.Array:
            keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
            candidates = (named.get(".".join(keys[start:])) for start in range(len(keys)))
            mask = next((mask for mask in candidates if mask is not None and mask.shape == leaf.shape), None)
            return leaf if mask is None else jnp.where(mask, leaf, jnp.zeros_like(leaf))

        return jax.tree.map_with_path(mask_leaf, state)
