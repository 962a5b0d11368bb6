"""Which meshes to try on so many chips, in which order, and what of the results is worth choosing from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

MOST_TENSOR = 16  # wider, and a chip's products become too narrow for its matrix unit


class Sizes(NamedTuple):
    """Devices along the axes of a mesh."""

    pod: int
    data: int
    fsdp: int
    context: int
    tensor: int


def meshes(chips: int, slices: int, *, contexts: Sequence[int] = (1,)) -> Iterator[Sizes]:
    """All ways to spread `chips` over data, fsdp and tensor (and context), each slice alike."""
    inside = chips // slices
    for tensor, context in itertools.product(_divisors(inside), contexts):
        if tensor > MOST_TENSOR or inside % (tensor * context):
            continue
        for data in _divisors(inside // (tensor * context)):
            yield Sizes(slices, data, inside // (tensor * context * data), context, tensor)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def interleaved[T](groups: Iterable[Sequence[T]]) -> list[T]:
    """The first of every group, then the second of every group, and so on."""
    rows = itertools.zip_longest(*groups)
    return [item for row in rows for item in row if item is not None]


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in one number without losing in the other; by the first number."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    front: list[int] = []
    for i in order:
        if not front or points[i][1] < points[front[-1]][1]:
            front.append(i)
    return front
