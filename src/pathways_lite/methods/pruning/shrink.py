"""A smaller dense model that computes what a pruned one does: without blocks, heads and channels that add nothing.

What adds nothing is read off the masks, whatever structure made them. Layers are stacked, so all of them keep as many
heads and channels as the one that keeps most; the others keep dead ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pathways_lite.models.arrays import Array
from pathways_lite.recipe import Model

Masks = Mapping[str, np.ndarray]
"""Booleans by the names of parameters; where one is missing, all of it is active."""


@dataclass(frozen=True)
class Remains:
    """What is left of `source`: which blocks, and of each the units along logical axes, int [layers left, units]."""

    source: Model
    target: Model
    blocks: np.ndarray
    units: Mapping[str, np.ndarray]

    def taken(self, array: Array, x: np.ndarray, layer: int) -> np.ndarray:
        """What is left of an array of the layer that is the `layer`-th left; of arrays without layers, all."""
        for at, axis in enumerate(array.axes):
            if array.stacked and axis in self.units:
                x = np.take(x, self.units[axis][layer], axis=at)
        return x


def remains(model: Model, masks: Masks) -> Remains:
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
    return Remains(model, Model.model_validate({**dict(model), **sizes}), blocks, units)


def _kept(lives: np.ndarray) -> np.ndarray:
    """Numbers of living units [layers, units], of each layer as many as any has, dead ones filling up; ascending."""
    count = max(1, int(lives.sum(axis=1).max()))
    return np.sort(np.argsort(~lives, axis=1, kind="stable")[:, :count], axis=1)
