"""What the compiler says of a train step that it compiled for a described machine, as plain numbers to be kept."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import jax

from pathways_lite.planner import cost_model, hlo
from pathways_lite.planner.chips import TpuSlices
from pathways_lite.planner.collectives import collectives, mesh_axes
from pathways_lite.planner.cost_model import Lookup, UnestimatedOps, find_unestimated, lookups

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
class CollectiveCost:
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
    waited_seconds: float  # what of them is left after the operations that the compiler scheduled meanwhile

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
    exchanges: tuple[CollectiveCost, ...]
    kernels: tuple[Kernel, ...]
    unknown_loops: tuple[str, ...]  # taken to run once
    lookups: tuple[Lookup, ...]  # gathers and scatters that the compiler does not estimate
    uncounted: UnestimatedOps  # what has no time at all
    compile_seconds: float

    def to_json(self) -> dict[str, Any]:
        named = {"memory": self.memory._asdict(), "uncounted": self.uncounted._asdict()}
        return asdict(self) | named | {"lookups": [one._asdict() for one in self.lookups]}


class Compiled(NamedTuple):
    """What is kept of a compilation."""

    text: str  # the optimised program
    argument_bytes: int
    output_bytes: int
    aliased_bytes: int
    temporary_bytes: int
    code_bytes: int
    seconds: float  # that it took


def compile_step(lower: Callable[[], Any], options: Mapping[str, str]) -> Compiled:
    """Raises JaxRuntimeError, with RESOURCE_EXHAUSTED in its text where memory does not suffice."""
    started = time.perf_counter()
    compiled = lower().compile(compiler_options=dict(options))
    found = compiled.memory_analysis()
    return Compiled(
        compiled.as_text(),
        found.argument_size_in_bytes,
        found.output_size_in_bytes,
        found.alias_size_in_bytes,
        found.temp_size_in_bytes,
        found.generated_code_size_in_bytes,
        time.perf_counter() - started,
    )


def read_program(compiled: Compiled, state: Any, mesh: jax.sharding.Mesh, topology: TpuSlices) -> Program:
    """What a compiled train step says.

    Args:
        state: abstract arrays with shardings, which the step is given and gives back in the same memory; its
            `params` are the parameters.
    """
    module = hlo.parse(compiled.text)
    sites = list(hlo.executed(module))
    parameters, everything = bytes_per_chip(state.params), bytes_per_chip(state)
    memory = Memory(
        parameters=parameters,
        optimizer=everything - parameters,
        padding=compiled.aliased_bytes - everything,
        batch=compiled.argument_bytes - compiled.aliased_bytes,
        # What leaves without having come in (metrics) is counted with the temporaries.
        temporaries=compiled.temporary_bytes + compiled.output_bytes - compiled.aliased_bytes,
        code=compiled.code_bytes,
    )
    return Program(
        memory=memory,
        cycles=_cycles(sites),
        exchanges=_exchanges(compiled.text, mesh, topology),
        kernels=_kernels(sites),
        unknown_loops=tuple(hlo.unknown_loops(module)),
        lookups=lookups(sites, topology.chip.hbm_bytes_per_second),
        uncounted=find_unestimated(sites, module),
        compile_seconds=compiled.seconds,
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
    derivative = re.search(r"(transpose\()?jvp\((\w*)\)", op_name)  # of a named scope
    if derivative is None:
        return "optimizer" if "/cond/" in op_name else "other"
    if derivative[2] != "layers":
        return "embedding and loss"
    return "layers, backward" if derivative[1] else "layers, forward"


def _cycles(sites: Iterable[hlo.Site]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for site in sites:
        if site.fusion is None and site.instruction.cycles is not None:
            total[part_of(site.op_name)] += site.times * site.instruction.cycles
    return {part: total[part] for part in PARTS}


def _exchanges(text: str, mesh: jax.sharding.Mesh, topology: TpuSlices) -> tuple[CollectiveCost, ...]:
    found: dict[tuple[Any, ...], CollectiveCost] = {}
    for one in collectives(text):
        seconds = cost_model.seconds(one, mesh, topology)
        waited = max(0.0, sum(seconds) - one.cycles_meanwhile / topology.chip.clock_hz)
        new = CollectiveCost(
            one.kind, mesh_axes(one.groups, mesh), one.group_size, one.bytes, one.count, one.asynchronous,
            part_of(one.where), one.count * seconds.ici, one.count * seconds.dcn, one.count * waited,
        )  # fmt: skip
        key = (new.kind, new.axes, new.members, new.bytes, new.asynchronous, new.where)
        found[key] = _together(found[key], new) if key in found else new
    return tuple(sorted(found.values(), key=lambda exchange: -exchange.seconds))


def _together(a: CollectiveCost, b: CollectiveCost) -> CollectiveCost:
    return replace(
        a,
        count=a.count + b.count,
        ici_seconds=a.ici_seconds + b.ici_seconds,
        dcn_seconds=a.dcn_seconds + b.dcn_seconds,
        waited_seconds=a.waited_seconds + b.waited_seconds,
    )


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
