"""A model of the time that a collective takes over the links of TPU slices. No measurement stands behind it.

For V bytes of the whole array (`Collective.bytes`), n members of a group in a slice, s slices:

    all-gather, reduce-scatter     V (n-1)/n / W                    all-reduce            twice that
    all-to-all                     v m / (4 w, 8 w on a ring)       collective-permute    v / w
    over slices, in addition       V/n (s-1)/s / D                  all-reduce            twice that
                                   v (s-1)/s / D  all-to-all        collective-permute    v / D
    and for each                   1 us per hop to the farthest member

W: bytes per second that come in over all links which the group can use at once: 2 w for every side of the torus along
which its members form a ring, w for a line; divided by k where k groups share the links, every k-th chip of a side
belonging to one. w: of one link, in one direction. v: of one device's part; m: the longest side of the group. D: of
the data-center network, per chip.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from pathways_lite.parallel.collectives import Collective
from pathways_lite.parallel.described import CHIPS_PER_HOST
from pathways_lite.parallel.topologies import TpuSlices

HOP_SECONDS = 1e-6


class Seconds(NamedTuple):
    """Of one execution."""

    ici: float
    dcn: float


class _Side(NamedTuple):
    """How a group lies along one side of the torus."""

    members: int
    apart: int  # chips from one member to the next
    is_ring: bool

    @property
    def lanes(self) -> float:
        """Links' worth of bandwidth into each member."""
        return (2 if self.is_ring else 1) / self.apart


def seconds(one: Collective, mesh: jax.sharding.Mesh, topology: TpuSlices) -> Seconds:
    """Modelled time of one execution, of the slowest of the first and the last group."""
    devices = mesh.devices.reshape(-1)
    ends = [one.groups[0], one.groups[-1]]
    return max((_seconds_of_group(one, [devices[i] for i in group], topology) for group in ends), key=sum)


def _seconds_of_group(one: Collective, group: Iterable[jax.Device], topology: TpuSlices) -> Seconds:
    slices: dict[int, list[tuple[int, ...]]] = {}
    for device in group:
        slices.setdefault(getattr(device, "slice_index", 0) or 0, []).append(tuple(device.coords))
    inside = len(next(iter(slices.values())))
    sides = _sides(np.array(next(iter(slices.values()))), topology)
    link = topology.chip.link_bytes
    times = 2 if one.kind == "all-reduce" else 1
    ici = dcn = 0.0
    if inside > 1:
        hops = sum(side.members * side.apart / (2 if side.is_ring else 1) for side in sides)
        ici = hops * HOP_SECONDS
        if one.kind == "collective-permute":
            ici += one.bytes / link
        elif one.kind in ("all-to-all", "ragged-all-to-all"):
            longest = max(sides, key=lambda side: side.members)
            ici += one.bytes * longest.members / (4 * longest.lanes * link)
        else:
            ici += times * one.bytes * (inside - 1) / inside / (sum(side.lanes for side in sides) * link)
    if len(slices) > 1:
        away = (len(slices) - 1) / len(slices)
        if one.kind == "collective-permute":  # all that a chip has goes to one other
            share = float(one.bytes)
        elif one.kind in ("all-to-all", "ragged-all-to-all"):
            share = one.bytes * away
        else:
            share = one.bytes / inside * away
        dcn = times * share / (topology.chip.host_dcn_bytes / CHIPS_PER_HOST)
    return Seconds(ici, dcn)


def _sides(coordinates: np.ndarray, topology: TpuSlices) -> list[_Side]:
    """Along which sides of the torus a group extends; coordinates [members, 3]."""
    found = []
    for dimension, length in enumerate(topology.shape):
        places = np.unique(coordinates[:, dimension])
        if len(places) > 1:
            apart = int(np.diff(places).min())
            is_ring = topology.wrap[dimension] and len(places) * apart == length
            found.append(_Side(len(places), apart, is_ring))
    if np.prod([side.members for side in found]) == len(coordinates):
        return found
    # No box: the members are taken to pass everything along one line.
    return [_Side(len(coordinates), 1, False)]
