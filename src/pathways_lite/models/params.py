"""The parameters of a model as a table: name, axes, shape, and the role of each axis.

Pruning, growth and export read this table instead of knowing the model: a block with new arrays extends it here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import jax

from pathways_lite.models.decoder import abstract_params, logical_axes
from pathways_lite.models.layers import Axes
from pathways_lite.recipe import Model


class AttentionArrays(NamedTuple):
    """Names of the projections whose units are attention heads, by their role."""

    q: str = "layers.attention.q"
    k: str = "layers.attention.k"
    v: str = "layers.attention.v"
    out: str = "layers.attention.out"


class MLPArrays(NamedTuple):
    """Names of the projections whose units are MLP channels, by their role."""

    gate: str = "layers.mlp.gate"
    up: str = "layers.mlp.up"
    down: str = "layers.mlp.down"


ATTENTION, MLP = AttentionArrays(), MLPArrays()
EMBEDDING, FINAL_NORM = "embedding", "final_norm."


class AxisRole(Enum):
    """What an array does with the units along one of its axes."""

    WRITES = "writes"  # computes them
    READS = "reads"  # sums over them
    SCALES = "scales"  # multiplies each by a factor, after dividing all by their root mean square
    ADJUSTS = "adjusts"  # scales or shifts each where it is already normalized, and keeps its size


@dataclass(frozen=True)
class ParamSpec:
    """One array of the parameters; where blocks are stacked, one layer's slice of it."""

    name: str  # "layers.attention.q"
    axes: tuple[str, ...]  # without "layers"
    shape: tuple[int, ...]  # without "layers"
    stacked: bool
    is_output: bool  # the last array of a branch, which is added to the residual stream (one of them where it is a sum)
    reads_unnormalized: bool = False  # whether it reads the residual stream itself, as blocks with only post-norms do

    @property
    def is_matrix(self) -> bool:
        """Whether the array is a kernel, an embedding or the head; every other one is a norm's scale or a bias."""
        return has_matrix_axes(self.axes)

    @property
    def is_bias(self) -> bool:
        """Whether the array is a bias, of a linear layer or of a norm."""
        return self.name.endswith("bias")

    @property
    def is_final_norm(self) -> bool:
        """Whether the array scales or shifts the residual stream before the output matrix."""
        return self.name.startswith(FINAL_NORM)

    @property
    def is_out_projection(self) -> bool:
        """Whether the array is the matrix that projects a branch back to the width of the residual stream."""
        return self.stacked and self.is_matrix and self.axes[-1] == "embed"

    @property
    def fan_in(self) -> int:
        """The number of units that a matrix reads."""
        if self.name == EMBEDDING:
            return 1
        read = (size for axis, size in zip(self.axes, self.shape, strict=True) if self.use(axis) is AxisRole.READS)
        return math.prod(read)

    def axis_number(self, axis: str) -> int:
        """Return the number of a logical axis in the array, the stacked layers counted."""
        return self.axes.index(axis) + self.stacked

    def use(self, axis: str) -> AxisRole:
        """What the array does with the units of one of its axes."""
        if not self.is_matrix:
            is_after_branch = "post_norm" in self.name
            if not _is_of_norm(self.name) or (self.is_bias and is_after_branch):
                return AxisRole.WRITES
            return AxisRole.ADJUSTS if self.is_bias or is_after_branch else AxisRole.SCALES
        if self.is_out_projection:
            return AxisRole.WRITES if axis == "embed" else AxisRole.READS
        if axis == "embed":
            return AxisRole.WRITES if self.name == EMBEDDING else AxisRole.READS
        return AxisRole.WRITES


def _is_of_norm(name: str) -> bool:
    """Whether a norm owns the array."""
    return name.endswith(("norm.scale", "norm.bias"))


def param_specs(model: Model) -> Any:
    """Build the tree of parameters with a `ParamSpec` for each."""

    def describe(path: Any, leaf: jax.ShapeDtypeStruct, axes: tuple[str, ...]) -> ParamSpec:
        stacked = axes[0] == "layers"
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        is_post_norm = "post_norm" in name
        adds = stacked and axes[-1] == "embed" and not _is_of_norm(name)
        reads = model.norm_position == "post" and stacked and axes[1] == "embed" and not is_post_norm and not adds
        is_output = adds if model.norm_position is None else is_post_norm
        return ParamSpec(name, axes[stacked:], leaf.shape[stacked:], stacked, is_output, reads)

    return jax.tree.map_with_path(describe, abstract_params(model), logical_axes(model))


# ---- logical axes, for optimizers: the rank of a stacked array does not show what it is ----

"""Logical axes of a parameter, e.g. ("layers", "embed", "heads", "head_dim")."""


def is_axes(node: Any) -> bool:
    """Whether `node` is a leaf of a tree of logical axes."""
    return isinstance(node, tuple)


def is_stacked(names: Axes) -> bool:
    """Whether the leading axis counts layers, each with its own parameter."""
    return "layers" in names[:1]


def is_matrix(names: Axes) -> bool:
    """Whether a layer's parameter is a matrix (a kernel, an embedding, the head) and not a vector of scales."""
    return has_matrix_axes(names[is_stacked(names) :])


def has_matrix_axes(axes: Axes) -> bool:
    """Whether an array with these axes, layers left out, maps from or to the residual stream.

    A bias of the heads, or a scale of all heads at once, has two axes and is no matrix.
    """
    return len(axes) >= 2 and "embed" in axes


def matrix_sides(names: Axes) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the input and output axes of a block's kernel, None for any other parameter.

    A kernel maps out of the residual stream ("embed" first: queries, keys, values, the MLP's input) or back into it
    ("embed" last: the outputs of attention and MLP). All other axes together are the other side.
    """
    if not (is_stacked(names) and is_matrix(names)):
        return None
    first, last = 1, len(names) - 1
    if names[first] == "embed":
        return (first,), tuple(range(first + 1, last + 1))
    if names[last] == "embed":
        return tuple(range(first, last)), (last,)
    return None
