"""What an optimizer reads off a parameter's logical axes: where layers are stacked, its rank does not tell.

A tree of logical axes has a tuple of names for each parameter, e.g. ("layers", "embed", "heads", "head_dim").
"""

from __future__ import annotations

from typing import Any

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
