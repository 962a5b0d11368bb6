"""Devices that take part in a collective together, from the forms XLA writes them in, and the mesh axes they span."""

from __future__ import annotations

import functools
import itertools
import math
import re

import jax
import numpy as np


def mesh_axes(groups: np.ndarray, mesh: jax.sharding.Mesh) -> tuple[str, ...]:
    """The mesh axes along which members of a group differ, e.g. ("pod", "data").

    Args:
        groups: [groups, members], places in the mesh's flattened devices.

    A group of fewer members than these axes have devices runs over a part of them.
    """
    places = np.unravel_index(groups, mesh.devices.shape)
    return tuple(name for name, at in zip(mesh.axis_names, places, strict=True) if np.any(at != at[:, :1]))


@functools.lru_cache(maxsize=256)
def parse_groups(text: str, devices: int) -> np.ndarray:
    """Replica groups [groups, members] of a program for so many devices.

    `{{0,1},{2,3}}` lists them, `{}` means all together; `[2,4]<=[4,2]T(1,0)` reshapes the numbers from 0, transposes
    and reshapes; `mesh['a'=4,'b'=2] {'b'}` groups along axes of a mesh, or along a part of one: `'a':(2)2` is the part
    of size 2 that comes after one of size 2; `, device_ids=(..)` after the mesh says in which order devices fill it.

    Raises ValueError for any other form.
    """
    if text.startswith("{"):
        rows = re.findall(r"\{([\d,\s]+)\}", text)
        return np.array([[int(n) for n in row.split(",")] for row in rows]) if rows else np.arange(devices)[None]
    if iota := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, source, order = (tuple(int(n) for n in (part or "").split(",") if n) for part in iota.groups())
        numbers = np.arange(math.prod(source)).reshape(source)
        return (numbers.transpose(order) if order else numbers).reshape(shape)
    if mesh := re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'?([\w.]+)'?=(\d+)", mesh[1])}
        numbers = np.array([int(n) for n in re.findall(r"\d+", mesh[2])]) if mesh[2] else np.arange(devices)
        grouped = re.findall(r"'?([\w.]+)'?(?::\((\d+)\)(\d+))?", mesh[3])
        spans = [(name, int(before or 1), int(size or sizes[name])) for name, before, size in grouped]
        return _groups_along(numbers, sizes, spans)
    raise ValueError(f"replica groups of an unknown form: {text[:80]}")


def _groups_along(numbers: np.ndarray, sizes: dict[str, int], spans: list[tuple[str, int, int]]) -> np.ndarray:
    """Groups along parts of the axes of a mesh.

    Args:
        numbers: of the devices, in the order in which they fill the mesh.
        spans: (axis, size of what comes before the part, size of the part).
    """
    shape: list[int] = []  # of the mesh, its axes cut where a part begins or ends
    grouped: dict[tuple[str, int], int] = {}  # (axis, size before) -> dimension of `shape`
    for name, size in sizes.items():
        cuts = {1, size, *(cut for axis, before, part in spans if axis == name for cut in (before, before * part))}
        for low, high in itertools.pairwise(sorted(cuts)):
            grouped[name, low] = len(shape)
            shape.append(high // low)
    last = [
        dimension
        for name, before, part in spans
        for (axis, low), dimension in grouped.items()
        if axis == name and before <= low < before * part
    ]
    first = [dimension for dimension in range(len(shape)) if dimension not in last]
    members = math.prod(shape[dimension] for dimension in last)
    return numbers.reshape(shape).transpose(first + last).reshape(-1, members)
