"""The collective operations of a compiled program: their kind, mesh axes, size and count.

for op in collectives(compiled.as_text()):
    print(op.count, op.kind, mesh_axes(op.groups, mesh), op.bytes, op.where)

count_collectives(compiled.as_text(), mesh)    # {("all-gather", ("fsdp",)): 10, ("all-reduce", ("tensor",)): 20}
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass, field

import jax
import numpy as np

from pathways_lite.planner import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all",
         "collective-broadcast")  # fmt: skip


@dataclass(frozen=True)
class Collective:
    """One collective instruction; bytes are those of one device in one execution."""

    kind: str
    dtype: str  # of its largest operand
    operand_bytes: int
    result_bytes: int
    groups: np.ndarray = field(
        repr=False
    )  # [groups, members]: indices of the mesh's flattened devices; pairs (permute)
    count: int  # executions per step
    asynchronous: bool  # the compiler lets other operations run meanwhile
    cycles_meanwhile: int  # the compiler's estimate of the operations that it scheduled between start and end
    where: str  # `hlo.Site.op_name`

    @property
    def group_size(self) -> int:
        """The number of devices of a group; 2 for a permutation, sender and receiver."""
        return int(self.groups.shape[1])

    @property
    def bytes(self) -> int:
        """Bytes of the whole array: the result of an all-gather, the operand of a reduce-scatter."""
        return max(self.operand_bytes, self.result_bytes)


def collectives(text: str) -> list[Collective]:
    """Return the executed collectives of an optimized HLO module, in the order of the text, one per instruction.

    On TPUs a reduce-scatter is often a fusion of an all-reduce and a slice of its result; it is listed as a
    reduce-scatter. Groups of a single device are left out.
    """
    module = hlo.parse(text)
    n_devices = _count_devices(text)
    ops = (_parse_collective(site, module, n_devices) for site in hlo.executed_sites(module))
    return [op for op in ops if op is not None and op.group_size > 1]


def count_collectives(
    text: str, mesh: jax.sharding.Mesh, *, at_least: int = 0
) -> dict[tuple[str, tuple[str, ...]], int]:
    """Count executions per step by (kind, mesh axes), of collectives of `at_least` bytes (`Collective.bytes`)."""
    total: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for op in collectives(text):
        if op.bytes >= at_least:
            total[op.kind, mesh_axes(op.groups, mesh)] += op.count
    return dict(sorted(total.items()))


def _count_devices(text: str) -> int:
    """Return partitions times replicas."""
    matches = (re.search(rf"\bnum_{what}=(\d+)", text[: text.find("\n\n")]) for what in ("partitions", "replicas"))
    return int(np.prod([int(match.group(1)) for match in matches if match]))


def _parse_collective(site: hlo.Site, module: hlo.Module, n_devices: int) -> Collective | None:
    instruction = site.instruction
    opcode = instruction.opcode
    kind = opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    operands = [site.computation[name] for name in instruction.operands if name in site.computation]
    operand_bytes = sum(operand.bytes for operand in operands)
    result_bytes = instruction.bytes
    if opcode == "all-gather-start" or opcode == "collective-permute-start":
        result_bytes = max(array.bytes for array in instruction.arrays) if len(operands) == 1 else (
            result_bytes - operand_bytes
        )  # fmt: skip
    if site.fusion is not None:
        if "chain_id=" in instruction.attributes and not _is_async_start(site.computation):
            return None
        if kind == "all-reduce" and (sliced := _sliced_bytes(site)) is not None:
            kind, result_bytes = "reduce-scatter", sliced
    asynchronous = opcode.endswith("-start") or (site.fusion is not None and _is_asynchronous(site.fusion))
    arrays = [array for operand in operands for array in operand.arrays] or list(instruction.arrays)
    return Collective(
        kind=kind,
        dtype=max(arrays, key=lambda array: array.bytes).dtype,
        operand_bytes=operand_bytes,
        result_bytes=result_bytes,
        groups=_groups(instruction.attributes, n_devices),
        count=site.times,
        asynchronous=asynchronous,
        cycles_meanwhile=_cycles_meanwhile(site) if asynchronous else 0,
        where=site.op_name,
    )


def _is_asynchronous(fusion: hlo.Instruction) -> bool:
    return fusion.opcode.endswith("-start") or fusion.name.startswith("async-collective-start")


def _is_async_start(computation: hlo.Computation) -> bool:
    """Return True for the start of a collective that continues while other operations run.

    The TPU compiler repeats the collective in every operation that runs meanwhile.
    """
    return any('"AsyncCollectiveStart"' in instruction.attributes for instruction in computation.values())


def _cycles_meanwhile(site: hlo.Site) -> int:
    """Return the estimated cycles between the start and the end of a collective; the text is in scheduled order."""
    start = site.fusion or site.instruction
    around = site.computation if site.fusion is None else site.around
    handles, cycles = {start.name}, 0
    names = list(around)
    for name in names[names.index(start.name) + 1 :]:
        instruction = around[name]
        if not handles.isdisjoint(instruction.operands):
            if instruction.opcode.endswith("-done") or name.startswith("async-collective-done"):
                break
            handles.add(name)
            if instruction.opcode.endswith("-update"):  # only here it receives its operand
                cycles = 0
        cycles += instruction.cycles or 0
    return cycles


def _sliced_bytes(site: hlo.Site) -> int | None:
    """Return the bytes of a fusion's slice of its collective's result; None if it does not slice."""
    slices = [
        op
        for op in site.computation.values()
        if op.opcode == "dynamic-slice" and site.instruction.name in op.operands[:1]
    ]
    return slices[0].bytes if slices else None


def _groups(attributes: str, n_devices: int) -> np.ndarray:
    """Return the device groups of a collective as [groups, members]; one of all devices if the text has none."""
    match = re.search(r"\b(replica_groups|source_target_pairs)=", attributes)
    if match is None:
        return np.arange(n_devices)[None]
    text = attributes[match.end() :]
    end = re.search(r", (channel_id|dimensions|use_global_device_ids|to_apply|constrain_layout|\w+=)", text)
    return parse_groups(text[: end.start()] if end else text, n_devices)


# ---- replica groups: the devices that take part together, in every form that XLA writes ----


def mesh_axes(groups: np.ndarray, mesh: jax.sharding.Mesh) -> tuple[str, ...]:
    """Return the mesh axes along which members of a group differ, e.g. ("pod", "data").

    Args:
        groups: [groups, members], indices into the mesh's flattened devices.

    A group with fewer members than these axes have devices spans only part of them.
    """
    coordinates = np.unravel_index(groups, mesh.devices.shape)
    return tuple(axis for axis, c in zip(mesh.axis_names, coordinates, strict=True) if np.any(c != c[:, :1]))


@functools.lru_cache(maxsize=256)
def parse_groups(text: str, n_devices: int) -> np.ndarray:
    """Parse the replica groups [groups, members] of a program for a number of devices.

    `{{0,1},{2,3}}` lists them, `{}` is one group of all devices; `[2,4]<=[4,2]T(1,0)` reshapes the indices from 0,
    transposes and reshapes; `mesh['a'=4,'b'=2] {'b'}` groups along axes of a mesh, or along a sub-axis: `'a':(2)2` has
    size 2 and follows a sub-axis of size 2; `, device_ids=(..)` after the mesh is the order in which devices fill it.

    Raises ValueError for any other form.
    """
    if text.startswith("{"):
        rows = re.findall(r"\{([\d,\s]+)\}", text)
        return np.array([[int(n) for n in row.split(",")] for row in rows]) if rows else np.arange(n_devices)[None]
    if iota := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, source, order = (tuple(int(n) for n in (numbers or "").split(",") if n) for numbers in iota.groups())
        numbers = np.arange(math.prod(source)).reshape(source)
        return (numbers.transpose(order) if order else numbers).reshape(shape)
    if mesh := re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'?([\w.]+)'?=(\d+)", mesh[1])}
        numbers = np.array([int(n) for n in re.findall(r"\d+", mesh[2])]) if mesh[2] else np.arange(n_devices)
        grouped = re.findall(r"'?([\w.]+)'?(?::\((\d+)\)(\d+))?", mesh[3])
        spans = [(name, int(before or 1), int(size or sizes[name])) for name, before, size in grouped]
        return _groups_along(numbers, sizes, spans)
    raise ValueError(f"replica groups of unknown form: {text[:80]}")


def _groups_along(numbers: np.ndarray, sizes: dict[str, int], spans: list[tuple[str, int, int]]) -> np.ndarray:
    """Return the groups along sub-axes of a mesh.

    Args:
        numbers: device numbers, in the order in which they fill the mesh.
        spans: sub-axes: (axis, size of the sub-axis before it, its size).
    """
    shape: list[int] = []  # of the mesh, with its axes split where a sub-axis begins or ends
    grouped: dict[tuple[str, int], int] = {}  # (axis, size before) -> dimension of `shape`
    for name, size in sizes.items():
        cuts = {
            1,
            size,
            *(cut for axis, before, sub_size in spans if axis == name for cut in (before, before * sub_size)),
        }
        for low, high in itertools.pairwise(sorted(cuts)):
            grouped[name, low] = len(shape)
            shape.append(high // low)
    last = [
        dimension
        for name, before, size in spans
        for (axis, low), dimension in grouped.items()
        if axis == name and before <= low < before * size
    ]
    first = [dimension for dimension in range(len(shape)) if dimension not in last]
    members = math.prod(shape[dimension] for dimension in last)
    return numbers.reshape(shape).transpose(first + last).reshape(-1, members)
