"""What the compiler says of a train step that it compiled for a described machine, as plain numbers to be kept."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax

from pathways_lite.parallel import cost, hlo
from pathways_lite.parallel.collectives import collectives
from pathways_lite.parallel.replica_groups import mesh_axes
from pathways_lite.parallel.topologies import TpuSlices

PARTS = ("layers, forward", "layers, again", "layers, backward", "embedding and loss", "optimizer", "other")
"""Of a step; "again" is what the backward pass computes a second time (remat)."""


class Memory(NamedTuple):
    """Bytes of one chip."""

    parameters: int
    optimizer: int  # and what else of the state is no parameter
    padding: int  # of the state's arrays, to whole tiles
    batch: int
    temporaries: int  # activations, gradients, what collectives and kernels need
    code: int

    @property
    def total(self) -> int:
        return sum(self)


@dataclass(frozen=True)
class Exchange:
    """Equal collectives: those of one kind over the same axes of one size."""

    kind: str
    axes: tuple[str, ...]
    members: int
    bytes: int  # of the whole array
    count: int  # per step
    asynchronous: bool
    where: str  # part of the step
    ici_seconds: float  # modelled, per step
    dcn_seconds: float

    @property
    def seconds(self) -> float:
        return self.ici_seconds + self.dcn_seconds


@dataclass(frozen=True)
class Kernel:
    """Equal calls of a Pallas kernel."""

    name: str
    shape: tuple[int, ...]  # of its first result
    keys: int  # of the attention kernels: length of the key axis
    count: int  # per step
    where: str  # part of the step


@dataclass(frozen=True)
class Program:
    """A compiled train step."""

    memory: Memory
    cycles: Mapping[str, int]  # by part, of the operations that the compiler estimates
    exchanges: tuple[Exchange, ...]
    kernels: tuple[Kernel, ...]
    unknown_loops: tuple[str, ...]  # taken to run once
    compile_seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"memory": self.memory._asdict()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Program:
        tuples: dict[str, Any] = {
            "exchanges": tuple(Exchange(**one | {"axes": tuple(one["axes"])}) for one in data["exchanges"]),
            "kernels": tuple(Kernel(**one | {"shape": tuple(one["shape"])}) for one in data["kernels"]),
            "unknown_loops": tuple(data["unknown_loops"]),
        }
        return cls(**{**data, **tuples, "memory": Memory(**data["memory"])})


def read_program(
    compiled: Any, state: Any, mesh: jax.sharding.Mesh, topology: TpuSlices, compile_seconds: float
) -> Program:
    """What a compiled train step's text and memory analysis say.

    Args:
        state: abstract arrays with shardings, which the step is given and gives back in the same memory; its
            `params` are the parameters.
    """
    text = compiled.as_text()
    module = hlo.parse(text)
    sites = list(hlo.executed(module))
    analysis = compiled.memory_analysis()
    parameters, everything = bytes_per_chip(state.params), bytes_per_chip(state)
    reused = analysis.alias_size_in_bytes
    memory = Memory(
        parameters=parameters,
        optimizer=everything - parameters,
        padding=reused - everything,
        batch=analysis.argument_size_in_bytes - reused,
        # What leaves without having come in (metrics) is counted with the temporaries.
        temporaries=analysis.temp_size_in_bytes + analysis.output_size_in_bytes - reused,
        code=analysis.generated_code_size_in_bytes,
    )
    return Program(
        memory=memory,
        cycles=_cycles(sites),
        exchanges=_exchanges(text, mesh, topology),
        kernels=_kernels(sites),
        unknown_loops=tuple(hlo.unknown_loops(module)),
        compile_seconds=compile_seconds,
    )


def bytes_per_chip(tree: Any) -> int:
    """Of abstract arrays with shardings, without padding."""
    return sum(shard_bytes(leaf) for leaf in jax.tree.leaves(tree))


def shard_bytes(leaf: Any) -> int:
    """Bytes of an abstract array on one chip."""
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def part_of(op_name: str) -> str:
    """One of PARTS, from where an operation comes from in the traced step."""
    if "rematted_computation" in op_name:
        return "layers, again"
    derivative = re.search(r"(transpose\()?jvp\([^/]*\)\)?/(\w*)", op_name)
    if derivative is None:
        return "optimizer" if "/cond/" in op_name else "other"
    if derivative[2] != "while":
        return "embedding and loss"
    return "layers, backward" if derivative[1] else "layers, forward"


def _cycles(sites: Iterable[hlo.Site]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for site in sites:
        if site.fusion is None and site.instruction.cycles is not None:
            total[part_of(site.op_name)] += site.times * site.instruction.cycles
    return {part: total[part] for part in PARTS}


def _exchanges(text: str, mesh: jax.sharding.Mesh, topology: TpuSlices) -> tuple[Exchange, ...]:
    found: dict[tuple[Any, ...], Exchange] = {}
    for one in collectives(text):
        axes = mesh_axes(one.groups, mesh)
        seconds = cost.seconds(one, mesh, topology)
        key = (one.kind, axes, one.group_size, one.bytes, one.asynchronous, part_of(one.where))
        count = one.count + (found[key].count if key in found else 0)
        found[key] = Exchange(
            one.kind, axes, one.group_size, one.bytes, count, one.asynchronous, part_of(one.where),
            count * seconds.ici, count * seconds.dcn,
        )  # fmt: skip
    return tuple(sorted(found.values(), key=lambda exchange: -exchange.seconds))


def _kernels(sites: Iterable[hlo.Site]) -> tuple[Kernel, ...]:
    found: Counter[tuple[str, tuple[int, ...], int, str]] = Counter()
    for site in sites:
        name = site.instruction.kernel
        if name is None:
            continue
        operands = [site.computation[operand].arrays for operand in site.instruction.operands]
        keys = [arrays[0].shape for arrays in operands if arrays and len(arrays[0].shape) == 4]
        shape = site.instruction.arrays[0].shape
        found[name, shape, keys[0][-2] if keys else 0, part_of(site.op_name)] += site.times
    return tuple(Kernel(name, shape, keys, count, where) for (name, shape, keys, where), count in found.items())
