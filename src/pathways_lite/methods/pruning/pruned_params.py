"""Where the pruned weights are: between trees like the parameters and lists of the arrays that are pruned."""

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

# Masks as bits, eight to a byte along an array's last axis.
#
# A packed mask has its parameter's axes, the last one an eighth as long, so it is spread over devices as the
# parameter is
# and each device packs and unpacks its own part, where that is whole bytes. Packing along the stacked layers instead,
# which no rule spreads, would waste bits in all models whose depth is no multiple of eight.


def pack(mask: jax.Array) -> jax.Array:
    """Bits of a boolean array [..., n] as uint8 [..., ceil(n / 8)], the first in the lowest place, zeros at the end."""
    size = mask.shape[-1]
    if size % 8:
        mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, -size % 8)])
    bits = mask.reshape(*mask.shape[:-1], -1, 8).astype(jnp.uint8)
    return jnp.sum(bits << jnp.arange(8, dtype=jnp.uint8), axis=-1, dtype=jnp.uint8)


def unpack(packed: jax.Array, size: int) -> jax.Array:
    """The boolean array [..., size] that was packed."""
    bits = (packed[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
    return bits.reshape(*packed.shape[:-1], -1)[..., :size].astype(bool)


def pack_np(mask: np.ndarray) -> np.ndarray:
    """`pack` in host memory."""
    return np.packbits(mask, axis=-1, bitorder="little")


def unpack_np(bits: np.ndarray, size: int) -> np.ndarray:
    """`unpack` in host memory."""
    return np.unpackbits(bits, axis=-1, count=size, bitorder="little").astype(bool)


def is_hole(node: Any) -> bool:
    """Whether a tree like the parameters has nothing here."""
    return isinstance(node, optax.MaskedNode)


@dataclass(frozen=True)
class PrunedParams:
    """Where the pruned weights are among the parameters."""

    structure: Any  # of the parameters' tree
    arrays: tuple[ParamSpec, ...]  # all, in its order
    pruned: tuple[ParamSpec, ...]  # in the order of the groups' members

    @classmethod
    def of(cls, arrays: Any, groups: Sequence[PruneGroup]) -> PrunedParams:
        """`arrays`: `models.param_specs` the model."""
        pruned = tuple(member.array for group in groups for member in group.members)
        return cls(jax.tree.structure(arrays), tuple(jax.tree.leaves(arrays)), pruned)

    def pick(self, tree: Any) -> list[jax.Array]:
        """The pruned ones' leaves of a tree like the parameters; none of an empty one."""
        if tree == ():
            return []
        leaves = jax.tree.leaves(tree, is_leaf=is_hole)
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
