"""Compact a pruned model: a smaller dense model without dead blocks, heads and channels, or N:M-compressed arrays.

Dead units follow from the masks, whatever structure made them. Layers are stacked, so all of them keep as many heads
and channels as the one that keeps most; the others keep dead ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.models.params import ATTENTION, MLP, ParamSpec, param_specs
from pathways_lite.recipe import NM, Model

Masks = Mapping[str, np.ndarray]
"""Booleans by the names of parameters; where one is missing, all of it is active."""


@dataclass(frozen=True)
class CompactModel:
    """The compact model of `source`: the blocks that stay, and their units along logical axes, int [blocks, units]."""

    source: Model
    target: Model
    blocks: np.ndarray
    units: Mapping[str, np.ndarray]

    def take_units(self, array: ParamSpec, x: np.ndarray, layer: int) -> np.ndarray:
        """Select the units that stay of a layer's array, by the layer's new number; other arrays stay whole."""
        for axis, name in enumerate(array.axes):
            if array.stacked and name in self.units:
                x = np.take(x, self.units[name][layer], axis=axis)
        return x


def compact_model(model: Model, masks: Masks) -> CompactModel:
    """Find the units that are alive: at least one block, and in each as many heads and channels as any block needs.

    A unit whose input is a bias alone is alive, and so is a block that adds one. Raises UserError where heads are dead
    that a norm over all of them still counts.
    """
    arrays = {array.name: array for array in jax.tree.leaves(param_specs(model))}

    def alive(name: str, axis: str) -> np.ndarray:
        """Return which units of an array along a logical axis have an active weight, [layers, units]."""
        array = arrays[name]
        if (mask := masks.get(name)) is None:
            return np.ones((model.n_layers, array.shape[array.axes.index(axis)]), bool)
        reduced = set(range(mask.ndim)) - {0, array.axis_number(axis)}
        return mask.any(axis=tuple(reduced))

    queries, rows = alive(ATTENTION.out, "heads"), alive(MLP.down, "mlp")
    blocks = _numbers_of_alive((queries.any(axis=1) | rows.any(axis=1) | model.adds_bias)[None])[0]
    channels = rows
    for name in () if model.has_bias("mlp") else (MLP.gate, MLP.up):
        if name in arrays:
            channels = channels & alive(name, "mlp")
    shared = model.n_heads // model.n_kv_heads
    groups = queries.reshape(model.n_layers, model.n_kv_heads, shared)
    values = alive(ATTENTION.v, "kv") | model.has_bias("qkv")
    units = {"mlp": _numbers_of_alive(channels[blocks])}
    if model.n_kv_heads == 1:
        units["heads"] = _numbers_of_alive((groups[:, 0] & values)[blocks])
    else:  # a head of keys and values goes with all of its queries
        units["kv"] = _numbers_of_alive((groups.any(axis=2) & values)[blocks])
        units["heads"] = (units["kv"][..., None] * shared + np.arange(shared)).reshape(len(blocks), -1)
    if model.qk_norm_over is not None and units["heads"].shape[1] < model.n_heads:
        raise UserError(
            f"{model.n_heads - units['heads'].shape[1]} heads are pruned, but qk_norm_over={model.qk_norm_over!r} "
            "counts them in the mean square of the others, so a model without them would be another; keep the masks"
        )
    every = model.window and model.window * (model.n_layers // len(model.window))
    sizes = {
        "n_layers": len(blocks),
        "n_heads": units["heads"].shape[1],
        "n_kv_heads": units["kv"].shape[1] if "kv" in units else 1,
        "d_ff": units["mlp"].shape[1],
        "window": every and tuple(every[block] for block in blocks),
    }
    return CompactModel(model, Model.model_validate({**dict(model), **sizes}), blocks, units)


def _numbers_of_alive(alive: np.ndarray) -> np.ndarray:
    """Numbers of the units alive [layers, units], ascending; dead ones fill up to the largest number of any layer."""
    count = max(1, int(alive.sum(axis=1).max()))
    return np.sort(np.argsort(~alive, axis=1, kind="stable")[:, :count], axis=1)


# ---- N:M compression in host memory ----
#
# n of every m weights along an axis, and the position of each in its m. For 2:4 in bfloat16 that is 9/16 of the bytes,
# and what sparse tensor cores take, up to the order in which a vendor's library wants the positions.


def compress_nm(x: np.ndarray, mask: np.ndarray, axis: int, pattern: NM) -> tuple[np.ndarray, np.ndarray]:
    """Compress to values, n / m as many along `axis`, and positions packed along it: 4 per byte up to m = 4, else 2.

    Raises ValueError where the mask has more than n of some m.
    """
    groups = np.moveaxis(mask, axis, -1).reshape(*_rest(x, axis), -1, pattern.m)
    if (groups.sum(axis=-1) > pattern.n).any():
        raise ValueError(f"the mask has more than {pattern.n} active weights of some {pattern.m} along axis {axis}")
    # Active ones first, in their order; where there are fewer than n, positions of zeros after them.
    positions = np.sort(np.argsort(~groups, axis=-1, kind="stable")[..., : pattern.n], axis=-1)
    values = np.moveaxis(np.where(mask, x, 0), axis, -1).reshape(groups.shape)
    values = np.take_along_axis(values, positions, axis=-1)
    flat = lambda y: np.moveaxis(y.reshape(*_rest(x, axis), -1), -1, axis)  # noqa: E731
    return flat(values), _pack_small(flat(positions).astype(np.uint8), axis, _bits(pattern))


def decompress_nm(values: np.ndarray, places: np.ndarray, axis: int, pattern: NM) -> np.ndarray:
    """Restore the array that was compressed, with its mask applied."""
    size = values.shape[axis]
    positions = np.moveaxis(_unpack_small(places, axis, _bits(pattern), size), axis, -1)
    positions = positions.reshape(*positions.shape[:-1], -1, pattern.n)
    x = np.zeros((*positions.shape[:-1], pattern.m), values.dtype)
    np.put_along_axis(x, positions, np.moveaxis(values, axis, -1).reshape(positions.shape), axis=-1)
    return np.moveaxis(x.reshape(*x.shape[:-2], -1), -1, axis)


def _rest(x: np.ndarray, axis: int) -> tuple[int, ...]:
    return tuple(size for number, size in enumerate(x.shape) if number != axis)


def places_per_byte(pattern: NM) -> int:
    """Return the number of positions that are packed into a byte."""
    return 8 // _bits(pattern)


def _bits(pattern: NM) -> int:
    return 2 if pattern.m <= 4 else 4


def _pack_small(x: np.ndarray, axis: int, bits: int) -> np.ndarray:
    """Pack small numbers along an axis, as many per byte as fit, the first in the lowest bits."""
    x, each = np.moveaxis(x, axis, -1), 8 // bits
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % each)]).reshape(*x.shape[:-1], -1, each)
    bytes_ = np.bitwise_or.reduce(x << (bits * np.arange(each, dtype=np.uint8)), axis=-1)
    return np.moveaxis(bytes_.astype(np.uint8), -1, axis)


def _unpack_small(x: np.ndarray, axis: int, bits: int, size: int) -> np.ndarray:
    x = np.moveaxis(x, axis, -1)[..., None] >> (bits * np.arange(8 // bits, dtype=np.uint8))
    x = (x & ((1 << bits) - 1)).reshape(*x.shape[:-2], -1)
    return np.moveaxis(x[..., :size], -1, axis)
