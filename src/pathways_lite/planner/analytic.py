"""Analytic estimate of a step's time and memory, without compiling: for GPUs, and to rank candidate meshes of a search.

Assumptions: matrix products run at a fixed share of the peak. Per micro-batch a weight is gathered twice in two bytes
(forward, backward) and its gradient scattered once. Over `tensor` each branch of a block gathers and scatters the
hidden states of its tokens: forward, backward, and once more if they are recomputed. Gradients are summed over `data`
and `pod` once. Offloaded activations go to the host's memory and back once.
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
"""Share of the peak that large matrix products reach on GPUs, including the operations between them."""

RECOMPUTED = {"none": 0.0, "dots": 0.0, "offload": 0.0, "up": 0.3, "attention": 0.6, "full": 0.75}
"""Share of the forward pass that is recomputed, for d_ff = 4 d_model; a block's last products never are."""

SAVED_BYTES = {"none": 36, "dots": 24, "up": 14, "attention": 6, "offload": 2, "full": 2}
"""Bytes saved on the chip for the backward pass, per token, layer and unit of d_model, for d_ff = 4 d_model."""


@dataclass(frozen=True)
class ModelShape:
    """The model and memory settings that the estimate needs."""

    d_model: int
    n_layers: int
    branches: float  # times that a block gathers the residual stream and scatters a sum: 1 parallel, 2 serial
    remat: str
    microbatch: int | None  # sequences


@dataclass(frozen=True)
class AnalyticEstimate:
    """Estimated seconds of a step and bytes of a chip."""

    compute: float
    gathers: float  # weights and their gradients over fsdp and context
    tensor: float
    sums: float  # gradients over data and pod
    offload: float  # to the host's memory and back
    state_bytes: int
    activation_bytes: int

    @property
    def fast(self) -> float:
        """Time of the step if weights, gradient sums and offloading overlap with computation, on separate links."""
        return max(self.compute, self.gathers + self.sums, self.offload) + self.tensor

    @property
    def slow(self) -> float:
        """Time of the step if nothing overlaps."""
        return self.compute + self.gathers + self.tensor + self.sums + self.offload

    @property
    def bytes(self) -> int:
        """Memory of a chip."""
        return self.state_bytes + self.activation_bytes


def estimate_step(
    work: StageWork, shape: ModelShape, mesh: Mapping[str, int], machine: TpuSlices | GpuCluster, state_bytes: int
) -> AnalyticEstimate:
    """Estimate a step.

    Args:
        mesh: sizes of the mesh axes.
        state_bytes: parameters and optimizer state on a chip, exact.
    """
    shards, tensor = mesh["fsdp"] * mesh["context"], mesh["tensor"]
    replicas = mesh["data"] * mesh["pod"]
    chip = machine.gpu if isinstance(machine, GpuCluster) else machine.chip
    recomputed = RECOMPUTED[shape.remat]
    flops = work.flops_per_token * work.tokens_per_step * (1 + recomputed / 3)
    n_microbatches = work.sequences // shape.microbatch if shape.microbatch else 1

    weights = 2 * work.parameters / tensor
    gathers = 3 * n_microbatches * _received_bytes(weights, shards) / _bandwidth(machine, tensor, shards)
    tokens = work.tokens_per_step / (replicas * shards)
    hidden = 2 * tokens * shape.d_model * shape.n_layers * shape.branches
    n_collectives = 2 * (2 + (recomputed > 0.5))
    tensor_seconds = n_collectives * _received_bytes(hidden, tensor) / _bandwidth(machine, 1, tensor)
    sums = 2 * _received_bytes(weights / shards, replicas) / _bandwidth(machine, tensor * shards, replicas, mesh["pod"])
    units = shape.d_model * shape.n_layers / tensor
    offloaded = SAVED_BYTES["dots"] - SAVED_BYTES["offload"] if shape.remat == "offload" else 0
    offload = 2 * offloaded * units * tokens / chip.host_link_bytes
    # What a micro-batch saves, and float32 gradients.
    activations = int(
        SAVED_BYTES[shape.remat] * units * tokens / n_microbatches + 4 * work.parameters / (tensor * shards)
    )
    compute = flops / (machine.chips * chip.bf16_flops * MATMUL_SHARE)
    return AnalyticEstimate(compute, gathers, tensor_seconds, sums, offload, state_bytes, activations)


def hbm_bytes(machine: TpuSlices | GpuCluster) -> int:
    """Return the memory of a chip in bytes."""
    return machine.gpu.hbm_bytes if isinstance(machine, GpuCluster) else machine.chip.hbm_bytes


def _received_bytes(size: float, members: int) -> float:
    """Return the bytes that each member of a ring receives when `size` bytes are gathered or scattered."""
    return size * (members - 1) / members


def _bandwidth(machine: TpuSlices | GpuCluster, inner: int, members: int, pods: int = 1) -> float:
    """Return bytes per second into a chip, for groups with `members` that are `inner` devices apart."""
    if isinstance(machine, GpuCluster):
        if inner * members <= machine.per_server:
            return machine.gpu.nvlink_bytes
        # The members in a server share the network cards of its GPUs.
        return min(machine.gpu.nvlink_bytes, machine.gpu.network_bytes * max(1, machine.per_server // inner))
    chip = machine.chip
    if pods > 1:
        return chip.host_dcn_bytes / CHIPS_PER_HOST
    sides = 1 if members <= max(machine.shape) else chip.dimensions
    return 2 * sides * chip.link_bytes


# ---- search: candidate meshes, their order, and the Pareto front ----

MAX_TENSOR = 16  # beyond it a chip's products become too narrow for its matrix unit


class MeshSizes(NamedTuple):
    """Sizes of the axes of a mesh."""

    pod: int
    data: int
    fsdp: int
    context: int
    tensor: int


def enumerate_meshes(chips: int, slices: int, *, contexts: Sequence[int] = (1,)) -> Iterator[MeshSizes]:
    """Yield all ways to split `chips` over data, fsdp and tensor (and context), the same in each slice."""
    per_slice = chips // slices
    for tensor, context in itertools.product(_divisors(per_slice), contexts):
        if tensor > MAX_TENSOR or per_slice % (tensor * context):
            continue
        for data in _divisors(per_slice // (tensor * context)):
            yield MeshSizes(slices, data, per_slice // (tensor * context * data), context, tensor)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def interleave[T](groups: Iterable[Sequence[T]]) -> list[T]:
    """Return the first item of every group, then the second of every group, and so on."""
    rows = itertools.zip_longest(*groups)
    return [item for row in rows for item in row if item is not None]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other point dominates, in order of the first number."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    front: list[int] = []
    for i in order:
        if not front or points[i][1] < points[front[-1]][1]:
            front.append(i)
    return front
