"""A step's time and memory by arithmetic alone: for GPUs, and to guess which of many meshes deserve a compilation.

Assumed: matrix products at a share of the peak; a weight is gathered twice per step in two bytes (forward, backward)
and its gradient scattered once, per micro-batch; over `tensor` each branch of a block gathers and scatters its tokens'
hidden states, forward, backward and again where they are recomputed; gradients are summed over `data` and `pod` once;
what is offloaded goes to the host's memory and back once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pathways_lite.chips import CHIPS_PER_HOST
from pathways_lite.planner.chips import GpuCluster, TpuSlices
from pathways_lite.planner.plan import StageWork

MATMUL_SHARE = 0.65
"""Of the peak, in matrix products: what large ones reach on GPUs with all that stands between them."""

RECOMPUTED = {"none": 0.0, "dots": 0.0, "offload": 0.0, "up": 0.3, "attention": 0.6, "full": 0.75}
"""Share of the forward pass that is computed again, in a block with d_ff = 4 d_model; the last products never are."""

KEPT = {"none": 36, "dots": 24, "up": 14, "attention": 6, "offload": 2, "full": 2}
"""Bytes kept on the chip for the backward pass, per token, layer and unit of d_model; d_ff = 4 d_model."""


@dataclass(frozen=True)
class ModelShape:
    """What of a model the arithmetic needs."""

    d_model: int
    n_layers: int
    branches: int  # of a block, that follow each other: 1 parallel, 2 serial
    remat: str
    microbatch: int | None  # sequences


@dataclass(frozen=True)
class AnalyticEstimate:
    """Seconds of a step and bytes of a chip, roughly."""

    compute: float
    gathers: float  # weights and their gradients over fsdp and context
    tensor: float
    sums: float  # gradients over data and pod
    offload: float  # to the host's memory and back
    state_bytes: int
    activation_bytes: int

    @property
    def fast(self) -> float:
        """Weights, sums and what is offloaded move behind computation, each over links of its own."""
        return max(self.compute, self.gathers + self.sums, self.offload) + self.tensor

    @property
    def slow(self) -> float:
        """Nothing does."""
        return self.compute + self.gathers + self.tensor + self.sums + self.offload

    @property
    def bytes(self) -> int:
        return self.state_bytes + self.activation_bytes


def estimate_step(
    work: StageWork, shape: ModelShape, mesh: Mapping[str, int], machine: TpuSlices | GpuCluster, state_bytes: int
) -> AnalyticEstimate:
    """Args: mesh: sizes of the axes; state_bytes: parameters and optimizer on a chip, exact."""
    spread, tensor = mesh["fsdp"] * mesh["context"], mesh["tensor"]
    copies = mesh["data"] * mesh["pod"]
    chip = machine.gpu if isinstance(machine, GpuCluster) else machine.chip
    again = RECOMPUTED[shape.remat]
    flops = work.flops_per_token * work.tokens_per_step * (1 + again / 3)
    parts = work.sequences // shape.microbatch if shape.microbatch else 1

    weights = 2 * work.parameters / tensor
    gathers = 3 * parts * _received_bytes(weights, spread) / _bandwidth(machine, tensor, spread)
    tokens = work.tokens_per_step / (copies * spread)
    hidden = 2 * tokens * shape.d_model * shape.n_layers * shape.branches
    exchanges = 2 * (2 + (again > 0.5))
    tensor_seconds = exchanges * _received_bytes(hidden, tensor) / _bandwidth(machine, 1, tensor)
    sums = 2 * _received_bytes(weights / spread, copies) / _bandwidth(machine, tensor * spread, copies, mesh["pod"])
    units = shape.d_model * shape.n_layers / tensor
    away = KEPT["dots"] - KEPT["offload"] if shape.remat == "offload" else 0
    offload = 2 * away * units * tokens / chip.host_link_bytes
    # Float32 gradients beside what a micro-batch keeps.
    activations = int(KEPT[shape.remat] * units * tokens / parts + 4 * work.parameters / (tensor * spread))
    compute = flops / (machine.chips * chip.bf16_flops * MATMUL_SHARE)
    return AnalyticEstimate(compute, gathers, tensor_seconds, sums, offload, state_bytes, activations)


def hbm_bytes(machine: TpuSlices | GpuCluster) -> int:
    """Bytes of a chip."""
    return machine.gpu.hbm_bytes if isinstance(machine, GpuCluster) else machine.chip.hbm_bytes


def _received_bytes(size: float, members: int) -> float:
    """Bytes that reach each member of a ring when `size` bytes are gathered or scattered."""
    return size * (members - 1) / members


def _bandwidth(machine: TpuSlices | GpuCluster, inner: int, members: int, pods: int = 1) -> float:
    """Bytes per second into a chip, for groups whose members are `inner` places apart."""
    if isinstance(machine, GpuCluster):
        if inner * members <= machine.per_server:
            return machine.gpu.nvlink_bytes
        # All members in a server share its GPUs' network cards.
        return min(machine.gpu.nvlink_bytes, machine.gpu.network_bytes * max(1, machine.per_server // inner))
    chip = machine.chip
    if pods > 1:
        return chip.host_dcn_bytes / CHIPS_PER_HOST
    sides = 1 if members <= max(machine.shape) else chip.dimensions
    return 2 * sides * chip.link_bytes


# Which meshes to try on so many chips, in which order, and what of the results is worth choosing from.


MAX_TENSOR = 16  # wider, and a chip's products become too narrow for its matrix unit


class MeshSizes(NamedTuple):
    """Devices along the axes of a mesh."""

    pod: int
    data: int
    fsdp: int
    context: int
    tensor: int


def enumerate_meshes(chips: int, slices: int, *, contexts: Sequence[int] = (1,)) -> Iterator[MeshSizes]:
    """All ways to spread `chips` over data, fsdp and tensor (and context), each slice alike."""
    inside = chips // slices
    for tensor, context in itertools.product(_divisors(inside), contexts):
        if tensor > MAX_TENSOR or inside % (tensor * context):
            continue
        for data in _divisors(inside // (tensor * context)):
            yield MeshSizes(slices, data, inside // (tensor * context * data), context, tensor)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def interleave[T](groups: Iterable[Sequence[T]]) -> list[T]:
    """The first of every group, then the second of every group, and so on."""
    rows = itertools.zip_longest(*groups)
    return [item for row in rows for item in row if item is not None]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in one number without losing in the other; by the first number."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    front: list[int] = []
    for i in order:
        if not front or points[i][1] < points[front[-1]][1]:
            front.append(i)
    return front
