"""What a train step would take on a machine: time, from the compiler's estimates and models, and memory.

Where each number comes from:

- the *compiler* allocates memory, and estimates the cycles of every operation but kernels and collectives (`Program`);
- its *static profile* estimates the attention kernels (`attention_estimates`);
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
from typing import Any

import jax

from pathways_lite.parallel.attention_estimates import SAME_CYCLES, causal_cycles
from pathways_lite.parallel.kept import kept
from pathways_lite.parallel.plan_program import PARTS, Compiled, Exchange, Kernel, Program, compile_step, read_program
from pathways_lite.parallel.topologies import TpuSlices

FORWARD_SHARE, BACKWARD_SHARE = 0.6, 0.7
"""Assumed shares of the peak, of attention kernels that nothing estimates."""


@dataclass(frozen=True)
class Work:
    """What a stage asks for."""

    name: str
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
    """The compiler needs more memory than a chip has; bytes of each where it says so."""

    def __init__(self, message: str, needed: int | None, available: int | None):
        super().__init__(message)
        self.needed, self.available = needed, available


@dataclass(frozen=True)
class Plan:
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
    def compute(self) -> float:
        return sum(self.operations.values()) + sum(one.seconds for one in self.attention)

    def exchanged(self, chosen: Callable[[Exchange], bool] = lambda _: True) -> float:
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

    def tokens_per_second(self, step: float) -> float:
        return self.work.tokens_per_step / step

    def mfu(self, step: float, flops_per_token: int | None = None) -> float:
        """PaLM's, or with another count of FLOPs per token."""
        flops = self.work.flops_per_token if flops_per_token is None else flops_per_token
        return self.tokens_per_second(step) * flops / (self.machine.chips * self.machine.chip.bf16_flops)

    def mfu_6n(self, step: float) -> float:
        return self.mfu(step, 6 * self.work.parameters)

    def days(self, step: float) -> float:
        """For the whole budget, without pauses."""
        return self.work.tokens / self.tokens_per_second(step) / 86_400

    def chip_hours(self, step: float) -> float:
        return self.days(step) * 24 * self.machine.chips

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
            "attention": [vars(one) for one in self.attention],
            "exchanged_seconds": self.exchanged(),
            "program": self.program.to_json(),
            "steps": {
                name: {
                    "seconds": step,
                    "mfu": self.mfu(step),
                    "mfu_6n": self.mfu_6n(step),
                    "tokens_per_second": self.tokens_per_second(step),
                    "days": self.days(step),
                    "chip_hours": self.chip_hours(step),
                }
                for name, step in steps.items()
            },
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

    Raises DoesNotFit where the compiler finds too little memory.
    """

    def make() -> dict[str, Any]:
        try:
            compiled = compile_step(lower, options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return {"too_large": str(error)}
        packed = base64.b85encode(zlib.compress(compiled.text.encode())).decode()
        return {**compiled._asdict(), "text": packed}

    where = {"machine": machine.text, "slices": machine.slices, "mesh": dict(mesh.shape), "options": dict(options)}
    found = kept("steps", {**key, **where}, make)
    if "too_large" in found:
        raise too_large(found["too_large"])
    text = zlib.decompress(base64.b85decode(found["text"])).decode()
    return read_program(Compiled(**{**found, "text": text}), state, mesh, machine)


def too_large(message: str) -> DoesNotFit:
    """What the compiler's message says: "(38.60G) exceeds available HBM (30.75G)", "Used 38.60G of 30.75G hbm"."""
    sizes = re.findall(r"\b([\d.]+)([KMG])\b", message)
    needed, available = ([int(float(n) * 2 ** {"K": 10, "M": 20, "G": 30}[unit]) for n, unit in sizes] + [None] * 2)[:2]
    return DoesNotFit(message.splitlines()[0], needed, available)


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
