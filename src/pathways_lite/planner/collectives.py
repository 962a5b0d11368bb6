"""The collective operations of a compiled program: which, over which axes of the mesh, how large, how often.

for found in collectives(compiled.as_text()):
    print(found.count, found.kind, mesh_axes(found.groups, mesh), found.bytes, found.where)

counts(compiled.as_text(), mesh)    # {("all-gather", ("fsdp",)): 10, ("all-reduce", ("tensor",)): 20}
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

# Devices that take part in a collective together, from the forms XLA writes them in, and the mesh axes they span.


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


KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all",
         "collective-broadcast")  # fmt: skip


@dataclass(frozen=True)
class Collective:
    """One collective instruction. Bytes are one device's, of one execution."""

    kind: str
    dtype: str  # of its largest operand
    operand_bytes: int
    result_bytes: int
    groups: np.ndarray = field(repr=False)  # [groups, members]: places in the mesh's flattened devices; pairs (permute)
    count: int  # executions per step
    asynchronous: bool  # the compiler lets other operations run meanwhile
    cycles_meanwhile: int  # the compiler's estimate of the operations that it scheduled between beginning and end
    where: str  # `hlo.Site.op_name`

    @property
    def group_size(self) -> int:
        """How many devices take part together; of a permutation 2, who sends and who receives."""
        return int(self.groups.shape[1])

    @property
    def bytes(self) -> int:
        """Of the whole array: what an all-gather results in, what a reduce-scatter reduces."""
        return max(self.operand_bytes, self.result_bytes)


def collectives(text: str) -> list[Collective]:
    """All of an optimised HLO module's that run, in the order of the text; one entry per instruction.

    On TPUs a reduce-scatter is often a fusion of an all-reduce and a slice of its result: it is listed as what it is.
    Those of a single device each are left out.
    """
    module = hlo.parse(text)
    devices = _devices(text)
    found = [_collective(site, module, devices) for site in hlo.executed(module)]
    return [one for one in found if one is not None and one.group_size > 1]


def counts(text: str, mesh: jax.sharding.Mesh, *, at_least: int = 0) -> dict[tuple[str, tuple[str, ...]], int]:
    """Executions per step by (kind, mesh axes), of collectives over at least so many bytes (`Collective.bytes`)."""
    total: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for one in collectives(text):
        if one.bytes >= at_least:
            total[one.kind, mesh_axes(one.groups, mesh)] += one.count
    return dict(sorted(total.items()))


def _devices(text: str) -> int:
    """Partitions times replicas."""
    found = (re.search(rf"\bnum_{what}=(\d+)", text[: text.find("\n\n")]) for what in ("partitions", "replicas"))
    return int(np.prod([int(one.group(1)) for one in found if one]))


def _collective(site: hlo.Site, module: hlo.Module, devices: int) -> Collective | None:
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
        if "chain_id=" in instruction.attributes and not _starts_chain(site.computation):
            return None
        if kind == "all-reduce" and (sliced := _slice_of(site)) is not None:
            kind, result_bytes = "reduce-scatter", sliced
    asynchronous = opcode.endswith("-start") or (site.fusion is not None and _is_asynchronous(site.fusion))
    arrays = [array for operand in operands for array in operand.arrays] or list(instruction.arrays)
    return Collective(
        kind=kind,
        dtype=max(arrays, key=lambda array: array.bytes).dtype,
        operand_bytes=operand_bytes,
        result_bytes=result_bytes,
        groups=_groups(instruction.attributes, devices),
        count=site.times,
        asynchronous=asynchronous,
        cycles_meanwhile=_cycles_meanwhile(site) if asynchronous else 0,
        where=site.op_name,
    )


def _is_asynchronous(fusion: hlo.Instruction) -> bool:
    return fusion.opcode.endswith("-start") or fusion.name.startswith("async-collective-start")


def _starts_chain(computation: hlo.Computation) -> bool:
    """Whether this is the first part of a collective that goes on while other operations run.

    The TPU compiler writes the collective again into every operation that it runs along with.
    """
    return any('"AsyncCollectiveStart"' in instruction.attributes for instruction in computation.values())


def _cycles_meanwhile(site: hlo.Site) -> int:
    """Estimated cycles of what stands between the beginning and the end of a collective; the text is the schedule."""
    begun = site.fusion or site.instruction
    around = site.computation if site.fusion is None else site.around
    handles, cycles = {begun.name}, 0
    names = list(around)
    for name in names[names.index(begun.name) + 1 :]:
        instruction = around[name]
        if not handles.isdisjoint(instruction.operands):
            if instruction.opcode.endswith("-done") or name.startswith("async-collective-done"):
                break
            handles.add(name)
            if instruction.opcode.endswith("-update"):  # where it is given its operand
                cycles = 0
        cycles += instruction.cycles or 0
    return cycles


def _slice_of(site: hlo.Site) -> int | None:
    """Bytes of the slice that a fusion makes of its collective's result; None where it keeps the whole."""
    used_by = [
        one
        for one in site.computation.values()
        if one.opcode == "dynamic-slice" and site.instruction.name in one.operands[:1]
    ]
    return used_by[0].bytes if used_by else None


def _groups(attributes: str, devices: int) -> np.ndarray:
    """The device groups of a collective as [groups, members]; all devices where the text leaves them open."""
    found = re.search(r"\b(replica_groups|source_target_pairs)=", attributes)
    if found is None:
        return np.arange(devices)[None]
    text = attributes[found.end() :]
    end = re.search(r", (channel_id|dimensions|use_global_device_ids|to_apply|constrain_layout|\w+=)", text)
    return parse_groups(text[: end.start()] if end else text, devices)
