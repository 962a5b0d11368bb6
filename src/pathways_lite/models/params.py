"""The arrays of a model as data: what each is called, its axes, and what it does with the units along them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax

from pathways_lite.models.decoder import abstract_params, logical_axes
from pathways_lite.recipe import Model


class AxisRole(Enum):
    """What an array does with the units along one of its axes."""

    WRITES = "writes"  # they are computed by it
    READS = "reads"  # they are summed over
    SCALES = "scales"  # they are multiplied one by one


@dataclass(frozen=True)
class ParamSpec:
    """One array of the parameters, a layer's part of it where blocks are stacked."""

    name: str  # "layers.attention.q"
    axes: tuple[str, ...]  # without "layers"
    shape: tuple[int, ...]  # without "layers"
    stacked: bool

    @property
    def is_scale(self) -> bool:
        """A norm's scales; everything else is a matrix."""
        return len(self.axes) == 1

    @property
    def is_output(self) -> bool:
        """The kernel with which a branch writes to the residual stream."""
        return self.stacked and not self.is_scale and self.axes[-1] == "embed"

    @property
    def fan_in(self) -> int:
        """The number of units that a matrix reads."""
        if self.name == "embedding":
            return 1
        read = (size for axis, size in zip(self.axes, self.shape, strict=True) if self.use(axis) is AxisRole.READS)
        return math.prod(read)

    def use(self, axis: str) -> AxisRole:
        """What the array does with the units of one of its axes."""
        if self.is_scale:
            return AxisRole.SCALES
        if self.is_output:
            return AxisRole.WRITES if axis == "embed" else AxisRole.READS
        if axis == "embed":
            return AxisRole.WRITES if self.name == "embedding" else AxisRole.READS
        return AxisRole.WRITES


def param_specs(model: Model) -> Any:
    """The tree of parameters with a `ParamSpec` for each."""

    def describe(path: Any, leaf: jax.ShapeDtypeStruct, axes: tuple[str, ...]) -> ParamSpec:
        stacked = axes[0] == "layers"
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return ParamSpec(name, axes[stacked:], leaf.shape[stacked:], stacked)

    return jax.tree.map_with_path(describe, abstract_params(model), logical_axes(model))


# What an optimizer reads off a parameter's logical axes: where layers are stacked, its rank does not tell.
#
# A tree of logical axes has a tuple of names for each parameter, e.g. ("layers", "embed", "heads", "head_dim").


Axes = tuple[str, ...]


def is_axes(node: Any) -> bool:
    """Whether `node` is a leaf of a tree of logical axes."""
    return isinstance(node, tuple)


def is_stacked(names: Axes) -> bool:
    """Whether the leading axis counts layers, each with a parameter of its own."""
    return "layers" in names[:1]


def is_matrix(names: Axes) -> bool:
    """Whether a layer's parameter is a matrix (a kernel, an embedding, the head) and no vector of scales."""
    return len(names) - is_stacked(names) >= 2


def matrix_sides(names: Axes) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Input and output axes of a block's kernel, or None for any other parameter.

    A kernel maps out of the residual stream ("embed" first: queries, keys, values, the MLP's input) or back into it
    ("embed" last: the attention's and the MLP's output). All axes on the other side together are the other side.
    """
    if not (is_stacked(names) and is_matrix(names)):
        return None
    first, last = 1, len(names) - 1
    if names[first] == "embed":
        return (first,), tuple(range(first + 1, last + 1))
    if names[last] == "embed":
        return tuple(range(first, last)), (last,)
    return None
