"""The plan of a train step on a machine: its memory, and its time from the compiler's estimates and from models.

The sources of the numbers:

- the *compiler* allocates memory, and estimates the cycles of most operations (`program`);
- its *static profile* estimates the attention kernels (`kernel_estimates`);
- gathers and scatters without cycles are *modelled* by the bytes of their rows (`cost_model`);
- collectives are *modelled* by the bytes and the links of their groups (`cost_model`);
- that the times of a step's operations add up, and what overlaps, is *assumed*.
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
    STEP_PARTS,
    CollectiveCost,
    Compiled,
    Kernel,
    Program,
    compile_step,
    read_program,
)

FORWARD_SHARE, BACKWARD_SHARE = 0.6, 0.7
"""Assumed shares of the peak that attention kernels without an estimate reach."""


@dataclass(frozen=True)
class StageWork:
    """The work of a stage: model size, batch, FLOPs and budget."""

    name: str
    stage: str
    parameters: int
    sequences: int  # per step
    seq_len: int
    flops_per_token: int  # 6 N + 12 L H Q T
    exact_flops: int  # of the matrix products of one step, with causal attention
    tokens: int  # of the whole budget
    seq_len_warmup: str = ""  # its phases, where the stage has one; the plan is of the step after it

    @property
    def tokens_per_step(self) -> int:
        return self.sequences * self.seq_len


@dataclass(frozen=True)
class AttentionTime:
    """Estimated time of an attention kernel's calls in one part of a step."""

    name: str
    where: str
    seconds: float  # per step
    source: str


class DoesNotFit(Exception):
    """The step needs more memory than a chip has: `needed` bytes, None if the compiler does not say."""

    def __init__(self, message: str, needed: int | None):
        super().__init__(message)
        self.needed = needed


class Rates(NamedTuple):
    """Rates that follow from the time of a step."""

    seconds: float
    mfu: float  # PaLM's: 6 N + 12 L H Q T per token
    mfu_6n: float
    tokens_per_second: float
    days: float  # for the whole budget, without pauses
    chip_hours: float


def compute_rates(work: StageWork, seconds: float, chips: int, peak: float) -> Rates:
    """Compute the rates of a step of `seconds` on `chips` with a peak of `peak` FLOP/s each."""
    tokens_per_second = work.tokens_per_step / seconds
    days = work.tokens / tokens_per_second / 86_400
    mfu, mfu_6n = (tokens_per_second * flops / (chips * peak) for flops in (work.flops_per_token, 6 * work.parameters))
    return Rates(seconds, mfu, mfu_6n, tokens_per_second, days, days * 24 * chips)


@dataclass(frozen=True)
class StepPlan:
    """A compiled train step on a machine, with its estimated time."""

    work: StageWork
    machine: TpuSlices
    mesh: Mapping[str, int]
    program: Program
    attention: tuple[AttentionTime, ...]

    # ---- time, seconds per step ----

    @property
    def operation_seconds(self) -> dict[str, float]:
        """Time of the operations that the compiler estimates, by part of the step."""
        return {part: self.program.cycles[part] / self.machine.chip.clock_hz for part in STEP_PARTS}

    @property
    def lookup_seconds(self) -> float:
        """Modelled time of the gathers and scatters that the compiler does not estimate."""
        return sum(lookup.seconds for lookup in self.program.lookups)

    @property
    def compute_seconds(self) -> float:
        """Time of all that is not a collective."""
        attention = sum(kernel.seconds for kernel in self.attention)
        return sum(self.operation_seconds.values()) + self.lookup_seconds + attention

    def collective_seconds(self, select: Callable[[CollectiveCost], bool] = lambda _: True) -> float:
        """Return the modelled time of the collectives that `select` accepts (default: all)."""
        return sum(collective.seconds for collective in self.program.exchanges if select(collective))

    @property
    def slow(self) -> float:
        """Time of the step if computation waits for every collective."""
        return self.compute_seconds + self.collective_seconds()

    @property
    def fast(self) -> float:
        """Time of the step as scheduled: operations between a collective's start and end hide part of its time."""
        return self.compute_seconds + sum(collective.waited_seconds for collective in self.program.exchanges)

    @property
    def ideal(self) -> float:
        """Time of the step if all collectives overlap, except those over `tensor`, which the next product needs."""
        waited = self.collective_seconds(lambda collective: "tensor" in collective.axes)
        return max(self.compute_seconds, self.collective_seconds() - waited) + waited

    # ---- derived ----

    def rates(self, step: float) -> Rates:
        """Return the rates of a step of `step` seconds."""
        return compute_rates(self.work, step, self.machine.chips, self.machine.chip.bf16_flops)

    @property
    def fits(self) -> bool:
        """True if the step's memory is at most a chip's."""
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
            "operation_seconds": self.operation_seconds,
            "lookup_seconds": self.lookup_seconds,
            "attention": [vars(kernel) for kernel in self.attention],
            "exchanged_seconds": self.collective_seconds(),
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
    """Compile the step that `lower()` returns and read it; cached on disk by `key`, machine, mesh and options.

    Raises DoesNotFit if the step needs more memory than a chip has, UserError if an operation needs more vector memory
    than its limit.
    """

    def make() -> dict[str, Any]:
        try:
            compiled = compile_step(lower, options)
        except jax.errors.JaxRuntimeError as error:
            memory = re.search(r"hbm|vmem", str(error), re.IGNORECASE)  # the first one named
            if "RESOURCE_EXHAUSTED" not in str(error) or memory is None:
                raise
            if memory[0].lower() == "vmem":
                raise UserError(out_of_vmem_message(str(error))) from error
            return {"too_large": str(error)}
        packed = base64.b85encode(zlib.compress(compiled.text.encode())).decode()
        return {**compiled._asdict(), "text": packed}

    target = {"machine": machine.text, "slices": machine.slices, "mesh": dict(mesh.shape), "options": dict(options)}
    entry = cached("steps", {**key, **target}, make)
    if "too_large" in entry:
        raise parse_out_of_memory(entry["too_large"])
    text = zlib.decompress(base64.b85decode(entry["text"])).decode()
    return read_program(Compiled(**{**entry, "text": text}), state, mesh, machine)


def parse_out_of_memory(message: str) -> DoesNotFit:
    """Parse the compiler's message: "(38.60G) exceeds available HBM (30.75G)", "Used 38.60G of 30.75G hbm"."""
    size = re.search(r"\b([\d.]+)([KMG])\b", message)
    needed = int(float(size[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[size[2]]) if size else None
    return DoesNotFit(message.splitlines()[0], needed)


def out_of_vmem_message(message: str) -> str:
    """Return an error message with the operation or kernel that the compiler names, and with what helps."""
    operation = re.search(r"%[\w.\-]+|(?<=op_name=\")[^\"]+", message)
    return (
        f"{operation[0] if operation else 'an operation'} needs more vector memory than the compiler gives it: "
        f"{message.splitlines()[0]}\n"
        "Try a smaller xla_tpu_scoped_vmem_limit_kib (parallel/compiler_options.py), or smaller blocks of the kernel."
    )


def attention_times(program: Program, machine: TpuSlices, *, estimate: bool = True) -> tuple[AttentionTime, ...]:
    """Estimate the attention kernels of a program; with `estimate=False` from assumed shares of the peak."""
    times = []
    for kernel in program.kernels:
        which = next((name for name in ("forward", "backward") if kernel.name.endswith(f"attention_{name}")), None)
        if which is not None:
            times.append(_attention_time(kernel, which, machine, estimate))
    return tuple(times)


def _attention_time(kernel: Kernel, which: str, machine: TpuSlices, estimate: bool) -> AttentionTime:
    chip = machine.chip
    cycles = causal_cycles(which, machine.chip_name, kernel.shape, kernel.keys) if estimate else None
    if cycles is None:
        share = FORWARD_SHARE if which == "forward" else BACKWARD_SHARE
        per_call = causal_flops(which, kernel) / (share * chip.bf16_flops)
        source = f"assumed: {share:.0%} of peak"
    else:
        per_call = cycles / chip.clock_hz
        stand_in = f", cycles of a {SAME_CYCLES[machine.chip_name]}" if machine.chip_name in SAME_CYCLES else ""
        source = f"static profile, causal rows{stand_in}"
    return AttentionTime(kernel.name, kernel.where, kernel.count * per_call, source)


def causal_flops(which: str, kernel: Kernel) -> float:
    """Return the FLOPs of a call for causal rows: 4 D per pair forward (two products), 10 D backward (five)."""
    B, P, G, T, D = kernel.shape
    return (4 if which == "forward" else 10) * D * math.prod((B, P, G, T)) * kernel.keys / 2
