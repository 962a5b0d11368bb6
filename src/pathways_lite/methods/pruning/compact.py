"""A smaller dense model that computes what a pruned one does: without blocks, heads and channels that add nothing.

What adds nothing is read off the masks, whatever structure made them. Layers are stacked, so all of them keep as many
heads and channels as the one that keeps most; the others keep dead ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pathways_lite.models.params import ParamSpec
from pathways_lite.recipe import NM, Model

Masks = Mapping[str, np.ndarray]
"""Booleans by the names of parameters; where one is missing, all of it is active."""


@dataclass(frozen=True)
class CompactModel:
    """What is left of `source`: which blocks, and of each the units along logical axes, int [layers left, units]."""

    source: Model
    target: Model
    blocks: np.ndarray
    units: Mapping[str, np.ndarray]

    def taken(self, array: ParamSpec, x: np.ndarray, layer: int) -> np.ndarray:
        """What is left of an array of the layer that is the `layer`-th left; of arrays without layers, all."""
        for at, axis in enumerate(array.axes):
            if array.stacked and axis in self.units:
                x = np.take(x, self.units[axis][layer], axis=at)
        return x


def compact_model(model: Model, masks: Masks) -> CompactModel:
    """What of a model adds something: at least one block, and of each as many heads and channels as any needs."""

    def lives(name: str, axis: int, units: int) -> np.ndarray:
        """Which units of an array have an active weight, [layers, units]."""
        if (mask := masks.get(f"layers.{name}")) is None:
            return np.ones((model.n_layers, units), bool)
        return mask.any(axis=tuple(at for at in range(mask.ndim) if at not in (0, axis)))

    queries, rows = lives("attention.out", 1, model.n_heads), lives("mlp.down", 1, model.d_ff)
    blocks = _kept((queries.any(axis=1) | rows.any(axis=1))[None])[0]
    channels = rows & lives("mlp.gate", 2, model.d_ff) & lives("mlp.up", 2, model.d_ff)
    shared = model.n_heads // model.n_kv_heads
    groups = queries.reshape(model.n_layers, model.n_kv_heads, shared)
    values = lives("attention.v", 2, model.n_kv_heads)
    units = {"mlp": _kept(channels[blocks])}
    if model.n_kv_heads == 1:
        units["heads"] = _kept((groups[:, 0] & values)[blocks])
    else:  # a head of keys and values goes with all of its queries
        units["kv"] = _kept((groups.any(axis=2) & values)[blocks])
        units["heads"] = (units["kv"][..., None] * shared + np.arange(shared)).reshape(len(blocks), -1)
    every = model.window and model.window * (model.n_layers // len(model.window))
    sizes = {
        "n_layers": len(blocks),
        "n_heads": units["heads"].shape[1],
        "n_kv_heads": units["kv"].shape[1] if "kv" in units else 1,
        "d_ff": units["mlp"].shape[1],
        "window": every and tuple(every[block] for block in blocks),
    }
    return CompactModel(model, Model.model_validate({**dict(model), **sizes}), blocks, units)


def _kept(lives: np.ndarray) -> np.ndarray:
    """Numbers of living units [layers, units], of each layer as many as any has, dead ones filling up; ascending."""
    count = max(1, int(lives.sum(axis=1).max()))
    return np.sort(np.argsort(~lives, axis=1, kind="stable")[:, :count], axis=1)


# Patterns of N:M as values and places: n of every m weights along an axis, and where in their m each stood.
#
# For 2:4 in bfloat16 that is 9/16 of the bytes, and what sparse tensor cores take, up to the order in which a vendor's
# library wants the places. In host memory.


def compress_nm(x: np.ndarray, mask: np.ndarray, axis: int, pattern: NM) -> tuple[np.ndarray, np.ndarray]:
    """Values, n / m as many along `axis`, and their places, packed along it: 4 to a byte up to m = 4, else 2.

    Raises ValueError where the mask has more than n of some m.
    """
    groups = np.moveaxis(mask, axis, -1).reshape(*_rest(x, axis), -1, pattern.m)
    if (groups.sum(axis=-1) > pattern.n).any():
        raise ValueError(f"the mask has more than {pattern.n} active weights of some {pattern.m} along axis {axis}")
    # Active ones first, in their order; of where there are fewer, places of zeros after them.
    places = np.sort(np.argsort(~groups, axis=-1, kind="stable")[..., : pattern.n], axis=-1)
    values = np.moveaxis(np.where(mask, x, 0), axis, -1).reshape(groups.shape)
    values = np.take_along_axis(values, places, axis=-1)
    flat = lambda y: np.moveaxis(y.reshape(*_rest(x, axis), -1), -1, axis)  # noqa: E731
    return flat(values), _packed(flat(places).astype(np.uint8), axis, _bits(pattern))


def decompress_nm(values: np.ndarray, places: np.ndarray, axis: int, pattern: NM) -> np.ndarray:
    """The array that was compressed, its mask applied."""
    size = values.shape[axis]
    at = np.moveaxis(_unpacked(places, axis, _bits(pattern), size), axis, -1)
    at = at.reshape(*at.shape[:-1], -1, pattern.n)
    x = np.zeros((*at.shape[:-1], pattern.m), values.dtype)
    np.put_along_axis(x, at, np.moveaxis(values, axis, -1).reshape(at.shape), axis=-1)
    return np.moveaxis(x.reshape(*x.shape[:-2], -1), -1, axis)


def _rest(x: np.ndarray, axis: int) -> tuple[int, ...]:
    return tuple(size for at, size in enumerate(x.shape) if at != axis)


def places_per_byte(pattern: NM) -> int:
    """How many places of values are packed into a byte."""
    return 8 // _bits(pattern)


def _bits(pattern: NM) -> int:
    return 2 if pattern.m <= 4 else 4


def _packed(x: np.ndarray, axis: int, bits: int) -> np.ndarray:
    """Small numbers along an axis, as many to a byte as fit, the first in the lowest place."""
    x, each = np.moveaxis(x, axis, -1), 8 // bits
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % each)]).reshape(*x.shape[:-1], -1, each)
    bytes_ = np.bitwise_or.reduce(x << (bits * np.arange(each, dtype=np.uint8)), axis=-1)
    return np.moveaxis(bytes_.astype(np.uint8), -1, axis)


def _unpacked(x: np.ndarray, axis: int, bits: int, size: int) -> np.ndarray:
    x = np.moveaxis(x, axis, -1)[..., None] >> (bits * np.arange(8 // bits, dtype=np.uint8))
    x = (x & ((1 << bits) - 1)).reshape(*x.shape[:-2], -1)
    return np.moveaxis(x[..., :size], -1, axis)
