"""The collective operations of a compiled program: which, over which axes of the mesh, how large, how often.

for found in collectives(compiled.as_text()):
    print(found.count, found.kind, mesh_axes(found.groups, mesh), found.bytes, found.where)

counts(compiled.as_text(), mesh)    # {("all-gather", ("fsdp",)): 10, ("all-reduce", ("tensor",)): 20}
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import jax
import numpy as np

from pathways_lite.parallel import hlo
from pathways_lite.parallel.replica_groups import mesh_axes, parse_groups

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
