"""A train step compiled for a described machine, as plain numbers: memory, cycles, collectives, kernels, lookups."""

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
from pathways_lite.planner.cost_model import Lookup, UnestimatedOps, find_unestimated, model_lookups

STEP_PARTS = ("layers, forward", "layers, again", "layers, backward", "embedding and loss", "optimizer", "other")
"""Parts of a step; "again" is what the backward pass recomputes (remat)."""


class Memory(NamedTuple):
    """Memory of one chip, in bytes."""

    parameters: int
    optimizer: int  # and all of the state but the parameters
    padding: int  # of the state's arrays, to whole tiles
    batch: int
    temporaries: int  # activations, gradients, buffers of collectives and kernels
    code: int

    @property
    def total(self) -> int:
        return sum(self)


@dataclass(frozen=True)
class CollectiveCost:
    """Modelled time of equal collectives: of one kind and size, over the same axes, in the same part of a step."""

    kind: str
    axes: tuple[str, ...]
    members: int
    bytes: int  # of the whole array
    count: int  # per step
    asynchronous: bool
    where: str  # part of the step
    ici_seconds: float  # modelled, per step
    dcn_seconds: float
    waited_seconds: float  # not hidden by the operations that the compiler scheduled meanwhile

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
    """A compiled train step as numbers."""

    memory: Memory
    cycles: Mapping[str, int]  # by part, of the operations that the compiler estimates
    exchanges: tuple[CollectiveCost, ...]
    kernels: tuple[Kernel, ...]
    unknown_loops: tuple[str, ...]  # counted once
    lookups: tuple[Lookup, ...]  # gathers and scatters that the compiler does not estimate
    uncounted: UnestimatedOps  # operations without any estimate
    compile_seconds: float

    def to_json(self) -> dict[str, Any]:
        named = {"memory": self.memory._asdict(), "uncounted": self.uncounted._asdict()}
        return asdict(self) | named | {"lookups": [lookup._asdict() for lookup in self.lookups]}


class Compiled(NamedTuple):
    """What is cached of a compilation."""

    text: str  # the optimized program
    argument_bytes: int
    output_bytes: int
    aliased_bytes: int
    temporary_bytes: int
    code_bytes: int
    seconds: float  # of the compilation


def compile_step(lower: Callable[[], Any], options: Mapping[str, str]) -> Compiled:
    """Compile a lowered step. Raises JaxRuntimeError, with RESOURCE_EXHAUSTED in its text if memory is too small."""
    started = time.perf_counter()
    compiled = lower().compile(compiler_options=dict(options))
    memory = compiled.memory_analysis()
    return Compiled(
        compiled.as_text(),
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.generated_code_size_in_bytes,
        time.perf_counter() - started,
    )


def read_program(compiled: Compiled, state: Any, mesh: jax.sharding.Mesh, topology: TpuSlices) -> Program:
    """Read the numbers of a compiled train step.

    Args:
        state: abstract arrays with shardings, which the step takes and returns in the same memory (donated); its
            `params` are the parameters.
    """
    module = hlo.parse(compiled.text)
    sites = list(hlo.executed_sites(module))
    parameters, total = bytes_per_chip(state.params), bytes_per_chip(state)
    memory = Memory(
        parameters=parameters,
        optimizer=total - parameters,
        padding=compiled.aliased_bytes - total,
        batch=compiled.argument_bytes - compiled.aliased_bytes,
        # Outputs that do not alias an input (metrics) are counted with the temporaries.
        temporaries=compiled.temporary_bytes + compiled.output_bytes - compiled.aliased_bytes,
        code=compiled.code_bytes,
    )
    return Program(
        memory=memory,
        cycles=_cycles(sites),
        exchanges=_collective_costs(compiled.text, mesh, topology),
        kernels=_kernels(sites),
        unknown_loops=tuple(hlo.unknown_loops(module)),
        lookups=model_lookups(sites, topology.chip.hbm_bytes_per_second),
        uncounted=find_unestimated(sites, module),
        compile_seconds=compiled.seconds,
    )


def bytes_per_chip(tree: Any) -> int:
    """Return the bytes on one chip of a tree of abstract arrays with shardings, without padding."""
    return sum(shard_bytes(leaf) for leaf in jax.tree.leaves(tree))


def shard_bytes(leaf: Any) -> int:
    """Return the bytes of an abstract array on one chip."""
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def step_part(op_name: str) -> str:
    """Return the member of STEP_PARTS that an operation belongs to, by its `op_name` in the traced step."""
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
            total[step_part(site.op_name)] += site.times * site.instruction.cycles
    return {part: total[part] for part in STEP_PARTS}


def _collective_costs(text: str, mesh: jax.sharding.Mesh, topology: TpuSlices) -> tuple[CollectiveCost, ...]:
    """Return the costs of a program's collectives, equal ones summed, the longest first."""
    costs: dict[tuple[Any, ...], CollectiveCost] = {}
    for op in collectives(text):
        seconds = cost_model.collective_seconds(op, mesh, topology)
        waited = max(0.0, sum(seconds) - op.cycles_meanwhile / topology.chip.clock_hz)
        cost = CollectiveCost(
            op.kind, mesh_axes(op.groups, mesh), op.group_size, op.bytes, op.count, op.asynchronous,
            step_part(op.where), op.count * seconds.ici, op.count * seconds.dcn, op.count * waited,
        )  # fmt: skip
        key = (cost.kind, cost.axes, cost.members, cost.bytes, cost.asynchronous, cost.where)
        costs[key] = _add_costs(costs[key], cost) if key in costs else cost
    return tuple(sorted(costs.values(), key=lambda cost: -cost.seconds))


def _add_costs(a: CollectiveCost, b: CollectiveCost) -> CollectiveCost:
    return replace(
        a,
        count=a.count + b.count,
        ici_seconds=a.ici_seconds + b.ici_seconds,
        dcn_seconds=a.dcn_seconds + b.dcn_seconds,
        waited_seconds=a.waited_seconds + b.waited_seconds,
    )


def _kernels(sites: Iterable[hlo.Site]) -> tuple[Kernel, ...]:
    counts: Counter[tuple[str, tuple[int, ...], int, str]] = Counter()
    for site in sites:
        name = site.instruction.kernel
        if name is None:
            continue
        operands = [site.computation[operand].arrays for operand in site.instruction.operands]
        keys = [arrays[0].shape for arrays in operands if arrays and len(arrays[0].shape) == 4]
        shape = site.instruction.arrays[0].shape
        counts[name, shape, keys[0][-2] if keys else 0, step_part(site.op_name)] += site.times
    return tuple(Kernel(name, shape, keys, count, where) for (name, shape, keys, where), count in counts.items())
