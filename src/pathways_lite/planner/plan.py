"""What a train step would take on a machine: time, from the compiler's estimates and models, and memory.

Where each number comes from:

- the *compiler* allocates memory, and estimates the cycles of most operations (`Program`);
- its *static profile* estimates the attention kernels (`attention_estimates`);
- gathers and scatters without cycles are *modelled* by the bytes of their rows (`unestimated`);
- collectives are *modelled* by the bytes and the links of their groups (`cost`);
- that the parts of a step add up, and what overlaps, is *assumed*.
"""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from pathways_lite.errors import UserError
from pathways_lite.planner.chips import TpuSlices
from pathways_lite.planner.disk_cache import cached
from pathways_lite.planner.kernel_estimates import SAME_CYCLES, causal_cycles
from pathways_lite.planner.program import (
    PARTS,
    CollectiveCost,
    Compiled,
    Kernel,
    Program,
    compile_step,
    read_program,
)

FORWARD_SHARE, BACKWARD_SHARE = 0.6, 0.7
"""Assumed shares of the peak, of attention kernels that nothing estimates."""


@dataclass(frozen=True)
class Work:
    """What a stage asks for."""

    name: str
    stage: str
    parameters: int
    sequences: int  # per step
    seq_len: int
    flops_per_token: int  # 6 N + 12 L H Q T
    exact_flops: int  # of the products of one step, with causal attention
    tokens: int  # of the whole budget

    @property
    def tokens_per_step(self) -> int:
        return self.sequences * self.seq_len


@dataclass(frozen=True)
class Attention:
    """Estimated time of the calls of an attention kernel in a part of a step."""

    name: str
    where: str
    seconds: float  # per step
    source: str


class DoesNotFit(Exception):
    """The compiler needs more memory than a chip has; how many bytes, where it says so."""

    def __init__(self, message: str, needed: int | None):
        super().__init__(message)
        self.needed = needed


class Rates(NamedTuple):
    """What follows from the time of a step."""

    seconds: float
    mfu: float  # PaLM's: 6 N + 12 L H Q T per token
    mfu_6n: float
    tokens_per_second: float
    days: float  # for the whole budget, without pauses
    chip_hours: float


def rates(work: Work, seconds: float, chips: int, peak: float) -> Rates:
    """Args: seconds: of a step; peak: FLOPs per second of a chip."""
    per_second = work.tokens_per_step / seconds
    days = work.tokens / per_second / 86_400
    mfu, mfu_6n = (per_second * flops / (chips * peak) for flops in (work.flops_per_token, 6 * work.parameters))
    return Rates(seconds, mfu, mfu_6n, per_second, days, days * 24 * chips)


@dataclass(frozen=True)
class StepPlan:
    """A compiled step on a machine, priced."""

    work: Work
    machine: TpuSlices
    mesh: Mapping[str, int]
    program: Program
    attention: tuple[Attention, ...]

    # ---- time, seconds per step ----

    @property
    def operations(self) -> dict[str, float]:
        """Of the operations that the compiler estimates, by part."""
        return {part: self.program.cycles[part] / self.machine.chip.clock_hz for part in PARTS}

    @property
    def lookups(self) -> float:
        """Modelled time of the gathers and scatters that the compiler does not estimate."""
        return sum(one.seconds for one in self.program.lookups)

    @property
    def compute(self) -> float:
        return sum(self.operations.values()) + self.lookups + sum(one.seconds for one in self.attention)

    def exchanged(self, chosen: Callable[[CollectiveCost], bool] = lambda _: True) -> float:
        """Modelled time of the collectives that are chosen."""
        return sum(one.seconds for one in self.program.exchanges if chosen(one))

    @property
    def slow(self) -> float:
        """Computation waits for every collective."""
        return self.compute + self.exchanged()

    @property
    def fast(self) -> float:
        """A collective that the compiler begins and ends apart is waited for no longer than the rest of its time."""
        return self.compute + sum(one.waited_seconds for one in self.program.exchanges)

    @property
    def ideal(self) -> float:
        """All but those over `tensor`, on which the next product waits, run behind computation."""
        waited = self.exchanged(lambda one: "tensor" in one.axes)
        return max(self.compute, self.exchanged() - waited) + waited

    # ---- what follows ----

    def rates(self, step: float) -> Rates:
        return rates(self.work, step, self.machine.chips, self.machine.chip.bf16_flops)

    @property
    def fits(self) -> bool:
        return self.program.memory.total <= self.machine.chip.hbm_bytes

    def to_json(self) -> dict[str, Any]:
        steps = {"fast": self.fast, "slow": self.slow, "ideal": self.ideal}
        return {
            "name": self.work.name,
            "machine": self.machine.text,
            "slices": self.machine.slices,
            "chips": self.machine.chips,
            "mesh": dict(self.mesh),
            "sequences": self.work.sequences,
            "seq_len": self.work.seq_len,
            "parameters": self.work.parameters,
            "flops_per_step": self.work.flops_per_token * self.work.tokens_per_step,
            "exact_flops_per_step": self.work.exact_flops,
            "fits": self.fits,
            "hbm_bytes": self.machine.chip.hbm_bytes,
            "operation_seconds": self.operations,
            "lookup_seconds": self.lookups,
            "attention": [vars(one) for one in self.attention],
            "exchanged_seconds": self.exchanged(),
            "program": self.program.to_json(),
            "steps": {name: self.rates(step)._asdict() for name, step in steps.items()},
        }


def compiled_program(
    lower: Callable[[], Any],
    state: Any,
    mesh: jax.sharding.Mesh,
    machine: TpuSlices,
    options: Mapping[str, str],
    key: Mapping[str, Any],
) -> Program:
    """The step that `lower()` gives, compiled; what it says is kept on disk by `key`, machine, mesh and options.

    Raises DoesNotFit where the compiler finds too little memory, UserError where an operation needs more vector memory
    than it is given.
    """

    def make() -> dict[str, Any]:
        try:
            compiled = compile_step(lower, options)
        except jax.errors.JaxRuntimeError as error:
            memory = re.search(r"hbm|vmem", str(error), re.IGNORECASE)  # the first that is named
            if "RESOURCE_EXHAUSTED" not in str(error) or memory is None:
                raise
            if memory[0].lower() == "vmem":
                raise UserError(no_vector_memory(str(error))) from error
            return {"too_large": str(error)}
        packed = base64.b85encode(zlib.compress(compiled.text.encode())).decode()
        return {**compiled._asdict(), "text": packed}

    where = {"machine": machine.text, "slices": machine.slices, "mesh": dict(mesh.shape), "options": dict(options)}
    found = cached("steps", {**key, **where}, make)
    if "too_large" in found:
        raise too_large(found["too_large"])
    text = zlib.decompress(base64.b85decode(found["text"])).decode()
    return read_program(Compiled(**{**found, "text": text}), state, mesh, machine)


def too_large(message: str) -> DoesNotFit:
    """What the compiler's message says: "(38.60G) exceeds available HBM (30.75G)", "Used 38.60G of 30.75G hbm"."""
    size = re.search(r"\b([\d.]+)([KMG])\b", message)
    needed = int(float(size[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[size[2]]) if size else None
    return DoesNotFit(message.splitlines()[0], needed)


def no_vector_memory(message: str) -> str:
    """The operation or kernel that the compiler names, and what helps."""
    operation = re.search(r"%[\w.\-]+|(?<=op_name=\")[^\"]+", message)
    return (
        f"{operation[0] if operation else 'an operation'} needs more vector memory than the compiler gives it: "
        f"{message.splitlines()[0]}\n"
        "A smaller xla_tpu_scoped_vmem_limit_kib (parallel/compiler_options.py) helps, or smaller blocks of a kernel."
    )


def attention_times(program: Program, machine: TpuSlices, *, estimate: bool = True) -> tuple[Attention, ...]:
    """Of the attention kernels in a program. With `estimate=False`, from assumed shares of the peak."""
    found = []
    for kernel in program.kernels:
        which = next((name for name in ("forward", "backward") if kernel.name.endswith(f"attention_{name}")), None)
        if which is not None:
            found.append(_attention_time(kernel, which, machine, estimate))
    return tuple(found)


def _attention_time(kernel: Kernel, which: str, machine: TpuSlices, estimate: bool) -> Attention:
    chip = machine.chip
    cycles = causal_cycles(which, machine.chip_name, kernel.shape, kernel.keys) if estimate else None
    if cycles is None:
        share = FORWARD_SHARE if which == "forward" else BACKWARD_SHARE
        per_call = causal_flops(which, kernel) / (share * chip.bf16_flops)
        source = f"assumed: {share:.0%} of peak"
    else:
        per_call = cycles / chip.clock_hz
        of = f", cycles of a {SAME_CYCLES[machine.chip_name]}" if machine.chip_name in SAME_CYCLES else ""
        source = f"static profile, causal rows{of}"
    return Attention(kernel.name, kernel.where, kernel.count * per_call, source)


def causal_flops(which: str, kernel: Kernel) -> float:
    """Of a call, for causal rows: 4 D per pair forward (two products), 10 D backward (five)."""
    B, P, G, T, D = kernel.shape
    return (4 if which == "forward" else 10) * D * math.prod((B, P, G, T)) * kernel.keys / 2
