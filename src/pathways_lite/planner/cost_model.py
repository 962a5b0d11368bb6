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

import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from pathways_lite.chips import CHIPS_PER_HOST
from pathways_lite.planner import hlo
from pathways_lite.planner.chips import TpuSlices
from pathways_lite.planner.collectives import KINDS, Collective

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


# Operations that the TPU compiler gives no cycles: gathers and scatters by a model, of the rest how many.
#
# A row of a table is padded to whole lanes of 128 elements in memory. A gather reads and writes so many bytes per
# row; a
# scatter reads what it adds, and reads and writes the row. At least so long takes memory at its full bandwidth; that
# single rows do not reach it is not modelled.


LANES = 128
PASSES = {"gather": 2, "scatter": 3}
"""How often a row crosses the memory's link."""

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id", "after-all",
    "while", "conditional", "call",  # what they execute is counted
    "send", "recv", *KINDS,
}  # fmt: skip
_MEANWHILE = ("-start", "-update", "-done")  # copies and collectives that run beside computation


class Lookup(NamedTuple):
    """A gather of rows from a table, or a scatter into one."""

    kind: str
    rows: int
    row_bytes: int  # padded
    times: int  # per step
    op_name: str
    seconds: float  # modelled, per step


class UnestimatedOps(NamedTuple):
    """Operations over arrays that neither the compiler nor a model gives a time."""

    operations: int  # executions per step
    bytes: int  # of their results, per step


def lookups(sites: Iterable[hlo.Site], hbm_bytes_per_second: float) -> tuple[Lookup, ...]:
    """Those without cycles, the longest first."""
    found = []
    for site in sites:
        kind = _lookup_kind(site)
        if kind is None or not _without_cycles(site):
            continue
        array = site.instruction.arrays[0]
        row_bytes = -(-array.shape[-1] // LANES) * LANES * hlo.bits(array.dtype) // 8
        rows = _rows(site)
        seconds = site.times * rows * row_bytes * PASSES[kind] / hbm_bytes_per_second
        found.append(Lookup(kind, rows, row_bytes, site.times, site.op_name, seconds))
    return tuple(sorted(found, key=lambda one: -one.seconds))


def find_unestimated(sites: Iterable[hlo.Site], module: hlo.Module) -> UnestimatedOps:
    """What is left: neither estimated nor modelled, and more than a scalar."""
    operations = size = 0
    for site in sites:
        if _without_cycles(site) and _lookup_kind(site) is None and _computes(site.instruction, module):
            operations += site.times
            size += site.times * site.instruction.bytes
    return UnestimatedOps(operations, size)


def _without_cycles(site: hlo.Site) -> bool:
    return site.fusion is None and site.instruction.cycles is None


def _lookup_kind(site: hlo.Site) -> str | None:
    """By the opcode, or by what a fusion was made for: its calls may be the compiler's own."""
    one = site.instruction
    name = one.op_name.rsplit("/", 1)[-1] if one.opcode == "fusion" else one.opcode
    return next((kind for kind in PASSES if name.startswith(kind) and one.arrays and one.arrays[0].shape), None)


def _rows(site: hlo.Site) -> int:
    """As many as the operand of indices has; without one as many as the result."""
    operands = [site.computation[name] for name in site.instruction.operands if name in site.computation]
    arrays = [array for operand in operands for array in operand.arrays]
    indices = [math.prod(array.shape) for array in arrays if array.dtype in ("s32", "u32")]
    return max(indices, default=math.prod(site.instruction.arrays[0].shape[:-1]))


def _computes(one: hlo.Instruction, module: hlo.Module) -> bool:
    if one.opcode in _FREE or one.opcode.endswith(_MEANWHILE) or one.kernel is not None:
        return False
    if one.opcode == "custom-call" and ("AllocateBuffer" in one.attributes or "Bitcast" in one.attributes):
        return False
    inside = module.computations.get(one.attribute("calls") or "", {}).values()
    if any(part.opcode.removesuffix("-start") in KINDS for part in inside):
        return False
    return any(array.shape for array in one.arrays)
