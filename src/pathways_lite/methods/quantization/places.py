"""Which arrays are quantized, and what each of them is multiplied with.

All kernels of the blocks are; embedding, head, norms and biases are not, so a tied embedding never is. A kernel is
seen as a matrix [n, m]: n numbers that it sums over, m that it computes. Its own axes stand in that order already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.models import ParamSpec
from pathways_lite.models.params import ATTENTION, MLP, AxisRole
from pathways_lite.recipe import Model

READ_BY = {
    ATTENTION.q: "attention",
    ATTENTION.k: "attention",
    ATTENTION.v: "attention",
    ATTENTION.out: "heads",
    MLP.gate: "mlp",
    MLP.up: "mlp",
    MLP.down: "units",
}
"""By kernel, the field of `models.block.Read` that it is multiplied with."""

ORDER = (("attention",), ("heads",), ("mlp",), ("units",))
"""What a serial block's kernels read, in the order in which a block computes it."""
PARALLEL_ORDER = (("attention", "mlp"), ("heads", "units"))


@dataclass(frozen=True)
class Place:
    """One quantized array; one layer's slice of it is a kernel."""

    array: ParamSpec
    read: str  # field of `models.block.Read`

    @property
    def name(self) -> str:
        return self.array.name

    @property
    def shape(self) -> tuple[int, int]:
        """The kernel's shape as a matrix [n, m]."""
        return self.array.fan_in, math.prod(self.array.shape) // self.array.fan_in

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The axes of what the kernel computes."""
        summed = [self.array.use(axis) is AxisRole.READS for axis in self.array.axes]
        assert summed == sorted(summed, reverse=True), f"{self.name} does not sum over its first axes"
        return self.array.shape[sum(summed) :]

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Return a kernel as a matrix [n, m]."""
        return kernel.reshape(self.shape)


def places(model: Model) -> dict[str, Place]:
    """Return the arrays that are quantized, by name."""
    shares_norm = model.block == "parallel" and model.parallel_norms is None

    def place(array: ParamSpec) -> Place:
        read = READ_BY[array.name]
        return Place(array, "attention" if shares_norm and read == "mlp" else read)

    return {array.name: place(array) for array in _arrays(model) if array.stacked and array.is_matrix}


def left_out(model: Model) -> tuple[str, ...]:
    """Return the names of the arrays that keep their numbers."""
    quantized = places(model)
    return tuple(array.name for array in _arrays(model) if array.name not in quantized)


def steps(model: Model) -> tuple[tuple[Place, ...], ...]:
    """Return the arrays of a block in the order in which they are quantized, those of one step together.

    A step's kernels read what the kernels of the steps before computed (GPTQ's `true_sequential`): queries, keys and
    values; attention's output; gate and up; down. In a parallel block the first and third are one step, as are the
    second and fourth.
    """
    order = PARALLEL_ORDER if model.block == "parallel" else ORDER
    every = places(model).values()
    together = [tuple(place for place in every if place.read in reads) for reads in order]
    return tuple(step for step in together if step)


def block_params(model: Model, arrays: dict[str, np.ndarray]) -> Any:
    """Return the parameters of one block as its tree, from those of the stacked arrays' slices by name."""
    return jax.tree.map(lambda array: arrays[array.name], models.param_specs(model)["layers"])


def block_names(model: Model) -> tuple[str, ...]:
    """Return the names of the arrays of a block."""
    return tuple(array.name for array in _arrays(model) if array.stacked)


def _arrays(model: Model) -> list[ParamSpec]:
    return jax.tree.leaves(models.param_specs(model))
