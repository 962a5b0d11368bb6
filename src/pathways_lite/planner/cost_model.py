"""Cost models: the time of collectives over the links of TPU slices, and of gathers and scatters in memory.

They are formulas; no measurement was made to confirm them.
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

# ---- collectives ----

HOP_SECONDS = 1e-6


class CollectiveSeconds(NamedTuple):
    """Time of one execution of a collective: inside slices (ICI) and between them (DCN)."""

    ici: float
    dcn: float


class _Side(NamedTuple):
    """The extent of a group along one side of the torus."""

    members: int
    stride: int  # chips from one member to the next
    is_ring: bool

    @property
    def lanes(self) -> float:
        """The bandwidth into each member, in links."""
        return (2 if self.is_ring else 1) / self.stride


def collective_seconds(op: Collective, mesh: jax.sharding.Mesh, topology: TpuSlices) -> CollectiveSeconds:
    """Model the time of one execution; the slower one of the first and the last group counts.

    For V bytes of the whole array (`Collective.bytes`), n members of a group in a slice, s slices:

        all-gather, reduce-scatter     V (n-1)/n / W                    all-reduce            twice that
        all-to-all                     v m / (4 w, 8 w on a ring)       collective-permute    v / w
        over slices, in addition       V/n (s-1)/s / D                  all-reduce            twice that
                                       v (s-1)/s / D  all-to-all        collective-permute    v / D
        and for each                   1 us per hop to the farthest member

    W: bytes per second that arrive over all links that the group can use at once: 2 w for every side of the torus along
    which its members form a ring, w for a line; divided by k if k groups share the links, every k-th chip of a side
    belonging to one. w: of one link, in one direction. v: bytes of one device's shard; m: the longest side of the
    group. D: of the data-center network, per chip.
    """
    devices = mesh.devices.reshape(-1)
    first_and_last = [op.groups[0], op.groups[-1]]
    return max((_group_seconds(op, [devices[i] for i in group], topology) for group in first_and_last), key=sum)


def _group_seconds(op: Collective, group: Iterable[jax.Device], topology: TpuSlices) -> CollectiveSeconds:
    slices: dict[int, list[tuple[int, ...]]] = {}
    for device in group:
        slices.setdefault(getattr(device, "slice_index", 0) or 0, []).append(tuple(device.coords))
    per_slice = len(next(iter(slices.values())))
    sides = _sides(np.array(next(iter(slices.values()))), topology)
    link = topology.chip.link_bytes
    passes = 2 if op.kind == "all-reduce" else 1
    ici = dcn = 0.0
    if per_slice > 1:
        hops = sum(side.members * side.stride / (2 if side.is_ring else 1) for side in sides)
        ici = hops * HOP_SECONDS
        if op.kind == "collective-permute":
            ici += op.bytes / link
        elif op.kind in ("all-to-all", "ragged-all-to-all"):
            longest = max(sides, key=lambda side: side.members)
            ici += op.bytes * longest.members / (4 * longest.lanes * link)
        else:
            ici += passes * op.bytes * (per_slice - 1) / per_slice / (sum(side.lanes for side in sides) * link)
    if len(slices) > 1:
        remote_fraction = (len(slices) - 1) / len(slices)
        if op.kind == "collective-permute":  # a chip sends everything to one other chip
            sent_bytes = float(op.bytes)
        elif op.kind in ("all-to-all", "ragged-all-to-all"):
            sent_bytes = op.bytes * remote_fraction
        else:
            sent_bytes = op.bytes / per_slice * remote_fraction
        dcn = passes * sent_bytes / (topology.chip.host_dcn_bytes / CHIPS_PER_HOST)
    return CollectiveSeconds(ici, dcn)


def _sides(coordinates: np.ndarray, topology: TpuSlices) -> list[_Side]:
    """Return the sides of the torus along which a group with these coordinates [members, 3] extends."""
    sides = []
    for dimension, length in enumerate(topology.shape):
        positions = np.unique(coordinates[:, dimension])
        if len(positions) > 1:
            stride = int(np.diff(positions).min())
            is_ring = topology.wrap[dimension] and len(positions) * stride == length
            sides.append(_Side(len(positions), stride, is_ring))
    if np.prod([side.members for side in sides]) == len(coordinates):
        return sides
    # Not a box: assume that the members pass everything along one line.
    return [_Side(len(coordinates), 1, False)]


# ---- operations without the compiler's estimate ----

LANES = 128
"""A row of a table is padded in memory to a multiple of this many elements."""

MEMORY_PASSES = {"gather": 2, "scatter": 3}
"""How often a row is read from or written to memory: a scatter reads what it adds, and reads and writes the row."""

_FREE_OPCODES = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id", "after-all",
    "while", "conditional", "call",  # what they execute is counted itself
    "send", "recv", *KINDS,
}  # fmt: skip
_ASYNC_SUFFIXES = ("-start", "-update", "-done")  # copies and collectives that overlap with computation


class Lookup(NamedTuple):
    """A gather of rows from a table, or a scatter into one, with its modelled time."""

    kind: str
    rows: int
    row_bytes: int  # padded
    times: int  # per step
    op_name: str
    seconds: float  # modelled, per step


class UnestimatedOps(NamedTuple):
    """Number and size of the array operations that neither the compiler nor a model gives a time."""

    operations: int  # executions per step
    bytes: int  # of their results, per step


def model_lookups(sites: Iterable[hlo.Site], hbm_bytes_per_second: float) -> tuple[Lookup, ...]:
    """Model the gathers and scatters that the compiler gives no cycles, the longest first.

    The time is that of memory at its full bandwidth, hence a lower bound: single rows do not reach it.
    """
    lookups = []
    for site in sites:
        kind = _lookup_kind(site)
        if kind is None or not _has_no_cycles(site):
            continue
        array = site.instruction.arrays[0]
        row_bytes = -(-array.shape[-1] // LANES) * LANES * hlo.bits(array.dtype) // 8
        rows = _count_rows(site)
        seconds = site.times * rows * row_bytes * MEMORY_PASSES[kind] / hbm_bytes_per_second
        lookups.append(Lookup(kind, rows, row_bytes, site.times, site.op_name, seconds))
    return tuple(sorted(lookups, key=lambda lookup: -lookup.seconds))


def find_unestimated(sites: Iterable[hlo.Site], module: hlo.Module) -> UnestimatedOps:
    """Sum up the operations that are neither estimated nor modelled, except those on scalars."""
    operations = size = 0
    for site in sites:
        if _has_no_cycles(site) and _lookup_kind(site) is None and _takes_time(site.instruction, module):
            operations += site.times
            size += site.times * site.instruction.bytes
    return UnestimatedOps(operations, size)


def _has_no_cycles(site: hlo.Site) -> bool:
    return site.fusion is None and site.instruction.cycles is None


def _lookup_kind(site: hlo.Site) -> str | None:
    """Return "gather" or "scatter", else None; a fusion is judged by the traced operation that it implements."""
    op = site.instruction
    name = op.op_name.rsplit("/", 1)[-1] if op.opcode == "fusion" else op.opcode
    return next((kind for kind in MEMORY_PASSES if name.startswith(kind) and op.arrays and op.arrays[0].shape), None)


def _count_rows(site: hlo.Site) -> int:
    """Return the number of rows: the size of the index operand, or without one the rows of the result."""
    operands = [site.computation[name] for name in site.instruction.operands if name in site.computation]
    arrays = [array for operand in operands for array in operand.arrays]
    indices = [math.prod(array.shape) for array in arrays if array.dtype in ("s32", "u32")]
    return max(indices, default=math.prod(site.instruction.arrays[0].shape[:-1]))


def _takes_time(op: hlo.Instruction, module: hlo.Module) -> bool:
    if op.opcode in _FREE_OPCODES or op.opcode.endswith(_ASYNC_SUFFIXES) or op.kernel is not None:
        return False
    if op.opcode == "custom-call" and ("AllocateBuffer" in op.attributes or "Bitcast" in op.attributes):
        return False
    body = module.computations.get(op.attribute("calls") or "", {}).values()
    if any(inner.opcode.removesuffix("-start") in KINDS for inner in body):
        return False
    return any(array.shape for array in op.arrays)
