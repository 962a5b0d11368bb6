"""Estimate the time and memory of stages on this machine before they run: measured, calibrated, or assumed.

Measured: runs of the same shape have left their speed (`speed`). Calibrated: a few steps are taken now (`calibrate`).
Assumed: a share of the machine's peak, where a few steps would take too long or more memory than there is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax

from pathways_lite.cgroups import usable_memory
from pathways_lite.chips import published_peak
from pathways_lite.errors import UserError
from pathways_lite.host_memory import runs_on_cpu_only
from pathways_lite.ledger import Seconds
from pathways_lite.models.accounting import parameter_count
from pathways_lite.recipe import Evaluation, Recipe
from pathways_lite.tracking.formatting import byte_size, duration
from pathways_lite.tracking.peak import machine_peak
from pathways_lite.training.begun import StageState
from pathways_lite.training.ending import estimate_ending, with_ending
from pathways_lite.training.process_overhead import process_overhead
from pathways_lite.training.speed import (
    Speed,
    is_compiled,
    keep_speed,
    known_speed,
    measure_speed,
    speeds_directory,
    startup_seconds,
)
from pathways_lite.training.stage import StageSpec

ASSUMED_SHARE_OF_PEAK = 0.3
"""What small models reach on CPUs is 0.13 to 0.5 of the fastest matrix product: a guess within a factor of three."""

_ASSUMED_FIXED = 8.0  # seconds
_MAX_CALIBRATION_FLOPS = 2e12  # of a step: seconds on a CPU, nothing on an accelerator
_MAX_CALIBRATION_SHARE = 0.5  # of the memory
_BUSY = 0.75  # load per core, without what this process has added by then


@dataclass(frozen=True)
class Estimate:
    """What a stage would take here."""

    seconds: Seconds
    memory: int | None  # bytes: of the process on CPUs, else of the fullest device
    memory_limit: int | None
    source: str
    speed: Speed | None  # None where nothing is left to train
    cached: bool = False  # the compilation cache has the programs
    state_alone: bool = False  # `memory` is that of parameters and optimizer, without what a step takes
    unknown: str = ""  # what the seconds leave out because it was not measured here; then they are a lower bound

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {
            "seconds": self.seconds.total,
            "seconds_by_activity": vars(self.seconds),
            "memory_bytes": self.memory,
            "memory_limit_bytes": self.memory_limit,
            "source": self.source,
            "speed": None if self.speed is None else asdict(self.speed),
            "cached": self.cached,
            "unknown": self.unknown or None,
        }

    def sentence(self) -> str:
        """Return the estimate for people."""
        seconds = self.seconds
        compiling = "compiling, with the cache," if self.cached else "compiling"
        parts = {"training": seconds.train, compiling: seconds.compile, "evaluating": seconds.evaluate}
        parts |= {"saving": seconds.save, "starting and ending": seconds.other}
        shown = [f"{name} {duration(value)}" for name, value in parts.items() if value >= 0.005 * seconds.total]
        text = f"{'at least' if self.unknown else 'about'} {duration(seconds.total)} here ({', '.join(shown)})"
        if self.memory is not None:
            limit = f" of {byte_size(self.memory_limit)}" if self.memory_limit else ""
            text += f", {byte_size(self.memory)}{limit} of memory"
            text += " for the state alone, without activations" if self.state_alone else ""
            if self.memory_limit and self.memory > self.memory_limit:
                text += ", which is more than there is"
        left_out = f"; not measured here yet: {self.unknown}" if self.unknown else ""
        return f"{text}; {self.source}{left_out}"


def estimate_stage(
    spec: StageSpec, *, first_step: int = 0, calibrate: bool = False, samples: bool = True, pages: bool = True
) -> Estimate:
    """Estimate the rest of a stage from `first_step` on; with `calibrate`, take a few steps if its shape is unknown.

    `samples`, `pages`: what the run has at the end of a stage.
    """
    if first_step >= spec.timeline.total_steps:
        return Estimate(Seconds(), None, memory_limit(), "finished", None)
    speed, source, is_assumed = stage_speed(spec, calibrate=calibrate)
    if is_assumed:
        estimate = estimate_from(spec, speed, source, first_step, cached=is_compiled(spec.stage))
        return replace(estimate, state_alone=True)
    speed, unknown = with_ending(speed, estimate_ending(spec, probe=calibrate, samples=samples, pages=pages))
    speed = replace(speed, fixed=speed.fixed + process_overhead(speeds_directory()))
    estimate = estimate_from(spec, speed, source, first_step, cached=is_compiled(spec.stage))
    return replace(estimate, unknown=unknown)


def stage_speed(spec: StageSpec, *, calibrate: bool, like: Speed | None = None) -> tuple[Speed, str, bool]:
    """Return the stage's speed without the end of a run, where it comes from, and whether it is but assumed.

    `like`: see `calibrate_stage`.
    """
    if (known := known_speed(spec.stage) or (_calibrated(spec, like) if calibrate else None)) is not None:
        return *known, False
    source = f"assumed: {ASSUMED_SHARE_OF_PEAK:.0%} of this machine's peak, and memory for the state alone"
    return assumed_speed(spec), source, True


def _calibrated(spec: StageSpec, like: Speed | None) -> tuple[Speed, str] | None:
    """Calibrate the stage, and keep the result; None where that would take long, or is impossible on these devices."""
    from pathways_lite.training.calibrate import calibrate_stage

    if not may_calibrate(spec):
        return None
    try:
        speed = calibrate_stage(spec, like)
    except UserError:  # a mesh of more devices; training would say so
        return None
    keep_speed(spec.stage, speed)
    return speed, "calibrated by a few steps just now"


def estimate_from(spec: StageSpec, speed: Speed, source: str, first_step: int = 0, *, cached: bool = True) -> Estimate:
    """Return the estimate of a stage from `first_step` on that follows from a speed.

    `cached`: its programs were compiled before, e.g. by the calibration.
    """
    stage, timeline = spec.stage, spec.timeline
    total = timeline.total_steps
    seconds = speed.seconds(
        timeline.tokens_before(total) - timeline.tokens_before(first_step),
        evaluations_due(stage.evaluation, first_step, total) * held_out_tokens(spec),
        times_due(stage.saving.every, first_step, total),
        cached=cached,
    )
    return Estimate(seconds, speed.memory, memory_limit(), source, speed, cached and speed.cached_compile is not None)


def measure_stage(
    spec: StageSpec, first_step: int, last_step: int, spent: Seconds, wall: float, startup: float
) -> Speed | None:
    """Return the stage's speed in a process that trained it from one step to another; see `measure_speed`.

    `last_step`: where it stopped early, not the last one that was planned.
    """
    timeline, stage = spec.timeline, spec.stage
    return measure_speed(
        spent, wall, startup,
        tokens=timeline.tokens_before(last_step) - timeline.tokens_before(first_step),
        evaluated_tokens=evaluations_due(stage.evaluation, first_step, last_step) * held_out_tokens(spec),
        saves=times_due(stage.saving.every, first_step, last_step),
        steps=last_step - first_step,
    )  # fmt: skip


def estimate_recipe(
    recipe: Recipe,
    *,
    calibrate: bool,
    states: Sequence[StageState] | None = None,
    samples: bool = True,
    pages: bool = True,
) -> list[Estimate]:
    """Estimate what is left of every stage of a resolved recipe; by default all of it. See `estimate_stage`.

    Stages after the first that is trained share its process, and so its start and end.
    """
    startup, estimates, begun = startup_seconds() + process_overhead(speeds_directory()), list[Estimate](), False
    for index in range(len(recipe.stages)):
        spec, state = StageSpec(recipe, index), states[index] if states else StageState()
        first_step = spec.timeline.total_steps if state.finished else state.step
        estimate = estimate_stage(spec, first_step=first_step, calibrate=calibrate, samples=samples, pages=pages)
        if begun and not state.finished:
            fixed = max(0.0, estimate.seconds.other - startup)
            estimate = replace(estimate, seconds=replace(estimate.seconds, other=fixed))
        begun = begun or not state.finished
        estimates.append(estimate)
    return estimates


def busy_note() -> str | None:
    """Say where other programs keep this machine's CPUs busy, which no estimate foresees; None where they do not."""
    try:
        load = os.getloadavg()[0]
    except OSError:
        return None
    cores = os.cpu_count() or 1
    if not runs_on_cpu_only() or load < _BUSY * cores:
        return None
    return f"this machine is busy (load {load:.1f} on {cores} cores), so that times may be longer than on an idle one"


def assumed_speed(spec: StageSpec) -> Speed:
    """Return a guess from the FLOPs alone."""
    flops = ASSUMED_SHARE_OF_PEAK * machine_peak(spec.stage.model.dtype)
    token = spec.timeline.flops_per_token / flops
    # A forward pass is a third of a training step; a state of 12 bytes a parameter at 200 MB/s.
    save = 12 * parameter_count(spec.stage.model) / 200e6
    return Speed(token, token / 3, save, 0.0, _ASSUMED_FIXED, _state_bytes(spec), calibrated=True)


def may_calibrate(spec: StageSpec) -> bool:
    """Return whether a few steps of the stage are a matter of seconds, and fit into memory with certainty."""
    device, limit = jax.devices()[0], memory_limit()
    devices = jax.device_count()
    largest = max(sequences for _, sequences in spec.stage.ramp.steps)
    flops = spec.timeline.flops_per_token * largest * spec.stage.data.seq_len
    seconds_of_peak = flops / (devices * (published_peak(device.device_kind) or math.inf))
    is_fast = flops <= _MAX_CALIBRATION_FLOPS or 0 < seconds_of_peak < 1
    return is_fast and (limit is None or _state_bytes(spec) < _MAX_CALIBRATION_SHARE * limit)


def _state_bytes(spec: StageSpec) -> int:
    """Return the bytes of parameters, two moments and gradient in float32, on each of all devices."""
    return 16 * parameter_count(spec.stage.model) // jax.device_count()


def memory_limit() -> int | None:
    """Return the bytes that `Speed.memory` may reach: of a device, or of this process on CPUs; None if unknown."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return usable_memory()
    return (device.memory_stats() or {}).get("bytes_limit")


def times_due(every: int, first_step: int, total: int) -> int:
    """Return how often something that is due every `every` steps and at the end happens after `first_step`."""
    return 0 if first_step >= total else (total - 1) // every - first_step // every + 1


def evaluations_due(evaluation: Evaluation, first_step: int, total: int) -> int:
    """Return how often a stage of `total` steps is evaluated from `first_step` on."""
    before_training = bool(evaluation.at_start) and 0 == first_step < total
    return times_due(evaluation.every, first_step, total) + before_training


def held_out_tokens(spec: StageSpec) -> int:
    """Return about how many held-out tokens one evaluation of the stage scores."""
    store, budget = spec.store, spec.stage.evaluation.tokens
    return sum(min(budget, store.tokens(domain, "held_out")) for domain in store.domains)
