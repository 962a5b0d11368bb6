"""How fast stages trained on this machine: measured by every run, kept for each shape, read by later estimates.

A shape is what the time and memory of a step depend on: model, sequence length, batch, objective, optimizer, methods,
mesh. Kept in the user's cache, because other machines are faster or slower; a stage's own measurement is in its
summary.json too.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.ledger import Seconds
from pathways_lite.machine import machine_code_key
from pathways_lite.paths import user_cache
from pathways_lite.recipe import Stage

_KEPT = 5  # measurements of a shape
_MIN_STEPS = 5  # a shorter run says little


@dataclass(frozen=True)
class Speed:
    """What a stage of one shape takes, in seconds (of wall-clock time) and bytes."""

    token: float  # of training
    evaluated_token: float | None  # of the held-out text; None where nothing was evaluated
    save: float | None  # a checkpoint
    compile: float
    fixed: float  # a process before, between and after the other activities: imports, restoring, summary, page
    memory: int | None  # peak, of the process on CPUs, else of the fullest device
    calibrated: bool = False  # by a few steps, not by a run
    cached_compile: float | None = None  # where the compilation cache has the programs; None if unknown
    program: str | None = None  # digest of what the programs were compiled for (`stage_program`)
    recompile: float | None = None  # to compile another program of the shape, e.g. a longer budget; None if unknown
    without_ending: bool = False  # `fixed` leaves out compressors, samples and pages (`training.ending`)

    def seconds(self, tokens: int, evaluated_tokens: int, saves: int, *, cached: bool = False) -> Seconds:
        """Return the time of a stage with these amounts of work, by activity. `cached`: it was compiled before."""
        return Seconds(
            train=tokens * self.token,
            compile=self.cached_compile if cached and self.cached_compile is not None else self.compile,
            save=saves * (self.save or 0.0),
            evaluate=evaluated_tokens * (self.evaluated_token or 0.0),
            other=self.fixed,
        )


@functools.cache
def startup_seconds() -> float:
    """Return the CPU seconds that this process had taken when this was first called: what imports take."""
    return time.process_time()


def stage_shape(stage: Stage) -> str:
    """Return a digest of what the time of the stage's steps depends on."""
    return _digest(_shape(stage))


_SIZES = ("d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab_size")


def stage_family(stage: Stage) -> str:
    """Return a digest of the stage's shape without its sizes, so that its programs are compiled in about equal time."""
    shape = _shape(stage)
    sizes = (*_SIZES, "n_layers") if stage.model.scan_layers else _SIZES
    model = {name: value for name, value in shape["model"].items() if name not in sizes}
    return _digest({**shape, "model": model, "batch_size": None, "data": None})


def _shape(stage: Stage) -> dict[str, Any]:
    optimizer = {"kind": stage.optimizer.kind}
    fields = stage.model_dump(mode="json", exclude_none=True, exclude={
        "name", "start", "data", "optimizer", "budget", "evaluation", "saving", "log_every", "guard",
    })  # fmt: skip
    data = {"seq_len": stage.data.seq_len, "workers": stage.data.workers}
    shape = {**fields, "optimizer": optimizer, "data": data, "start": _masked(stage)}
    if stage.evaluation.tasks is not None:  # evaluations take longer then
        shape["tasks"] = stage.evaluation.model_dump(include={"tasks", "shots", "task_items"})
    return shape


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:24]


def stage_program(stage: Stage) -> str:
    """Return a digest of what the stage's programs depend on: beside its shape, budget and rates, which are constants.

    A stage of another program is compiled anew; one of the same is read from the compilation cache.
    """
    excluded = {"name", "start", "evaluation", "saving", "log_every", "guard", "early_stopping"}
    fields = stage.model_dump(mode="json", exclude_none=True, exclude=excluded)
    fields["data"] = {"seq_len": stage.data.seq_len}
    return _digest({**fields, "start": _masked(stage)})


def _masked(stage: Stage) -> str:
    """Return the kind of operator of a growth, as some of them compute in every step."""
    return getattr(getattr(stage.start, "operator", None), "kind", "")


def measure_speed(
    seconds: Seconds, wall: float, startup: float, *, tokens: int, evaluated_tokens: int, saves: int, steps: int
) -> Speed | None:
    """Return what a process measured in `wall` seconds of a stage, of which `seconds` are accounted for.

    `wall` leaves out compressors, samples and pages. `startup` are the seconds that the process took before. None after
    too few steps.
    """
    if steps < _MIN_STEPS or tokens <= 0:
        return None
    accounted = seconds.train + seconds.compile + seconds.save + seconds.evaluate
    return Speed(
        token=seconds.train / tokens,
        evaluated_token=seconds.evaluate / evaluated_tokens if evaluated_tokens else None,
        save=seconds.save / saves if saves else None,
        compile=seconds.compile,
        fixed=max(0.0, wall - accounted) + startup,
        memory=peak_memory(),
        without_ending=True,
    )


def peak_memory() -> int | None:
    """Return the most bytes that this process has used: of its fullest accelerator, or in host memory on CPUs."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        used = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices]
        return max((n for n in used if n is not None), default=None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---- what is kept ----


def keep_speed(stage: Stage, speed: Speed) -> None:
    """Add a measurement to those of the stage's shape; a run's replace those of calibrations.

    Where the stage's program was compiled before, what this one took is the time of reading it from the cache. Where
    another one of its shape was, the cache had the programs that both have.
    """
    kept, speed = _read(stage), replace(speed, program=stage_program(stage))
    if before := next((s for s in kept if s.program == speed.program), None):
        cached = speed.compile if speed.cached_compile is None else speed.cached_compile
        speed = replace(speed, compile=before.compile, cached_compile=min(cached, before.compile))
        speed = replace(speed, recompile=before.recompile)
    elif kept and speed.recompile is None:
        speed = replace(speed, recompile=speed.compile)
    earlier = [] if kept and kept[-1].calibrated and not speed.calibrated else kept
    path = _path(stage)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps([asdict(s) for s in [*earlier, speed][-_KEPT:]]), shared=True)
        if jax.process_count() == 1:
            write_text_atomically(_devices_path(None), json.dumps(path.parent.name), shared=True)


def known_speed(stage: Stage) -> tuple[Speed, str] | None:
    """Return the speed that was measured for the stage's shape on this machine, and how; None before the first time."""
    return _described(_read(stage))


def speed_on_cores(stage: Stage, cores: int) -> tuple[Speed, str] | None:
    """Return what `known_speed` would in a process that is pinned to `cores` cores, without starting JAX in this one.

    None also where no such process has kept a speed yet.
    """
    return _described(_kept_on_cores(stage, cores))


def _kept_on_cores(stage: Stage, cores: int) -> list[Speed]:
    directory = directory_on_cores(cores)
    return [] if directory is None else _read_file(directory / f"{stage_shape(stage)}.json")


def directory_on_cores(cores: int) -> Path | None:
    """Return `speeds_directory` of a process that is pinned to `cores` cores; None where it is not known."""
    with suppress(OSError, ValueError):
        devices = json.loads(_devices_path(cores).read_text())
        if isinstance(devices, str):
            return user_cache() / "speeds" / devices
    return None


def _described(kept: Sequence[Speed]) -> tuple[Speed, str] | None:
    """Return the speed of repeated measurements, and where it comes from."""
    if not kept:
        return None
    speed = combine(kept)
    if speed.calibrated:
        return speed, "calibrated on this machine"
    return speed, f"measured on this machine ({len(kept)} stage{'s' if len(kept) > 1 else ''} of this shape)"


def is_compiled(stage: Stage) -> bool:
    """Return whether the compilation cache should have the stage's programs: the same ones were compiled before."""
    return bool(jax.config.jax_compilation_cache_dir) and any(s.program == stage_program(stage) for s in _read(stage))


def is_compiled_on_cores(stage: Stage, cores: int) -> bool:
    """Return whether a process that is pinned to `cores` cores has compiled the stage's programs before."""
    return any(speed.program == stage_program(stage) for speed in _kept_on_cores(stage, cores))


def combine(speeds: Sequence[Speed]) -> Speed:
    """Return the medians of repeated measurements; the rest as it was last, and the most memory.

    `compile` is of another program than these, as which one of these is in the compilation cache.
    """

    def median(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    last, recompile = speeds[-1], median([speed.recompile for speed in speeds])
    return Speed(
        token=statistics.median(speed.token for speed in speeds),
        evaluated_token=median([speed.evaluated_token for speed in speeds]),
        save=median([speed.save for speed in speeds]),
        compile=statistics.median(speed.compile for speed in speeds) if recompile is None else recompile,
        fixed=last.fixed,
        memory=max((speed.memory for speed in speeds if speed.memory is not None), default=None),
        calibrated=last.calibrated,
        cached_compile=median([speed.cached_compile for speed in speeds]),
        recompile=recompile,
        without_ending=last.without_ending,
    )


def scaled(speed: Speed, factor: float) -> Speed:
    """Return the speed of a shape whose tokens cost `factor` times as much."""
    evaluated = None if speed.evaluated_token is None else factor * speed.evaluated_token
    save = None if speed.save is None else factor * speed.save
    return replace(speed, token=factor * speed.token, evaluated_token=evaluated, save=save, memory=None)


def parse_speed(value: Any) -> Speed | None:
    """Read a speed from JSON; None for anything else, e.g. of another version."""
    try:
        speed = Speed(**value)
        return speed if speed.token > 0 else None
    except TypeError:
        return None


def _read(stage: Stage) -> list[Speed]:
    return _read_file(_path(stage))


def _read_file(path: Path) -> list[Speed]:
    with suppress(OSError, ValueError):
        values = json.loads(path.read_text())
        if isinstance(values, list):
            return [speed for value in values if (speed := parse_speed(value)) is not None]
    return []


_DEVICE_VARIABLES = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")


def _devices_path(cores: int | None) -> Path:
    """Return the file that names the directory of speeds on the devices that a process on `cores` cores finds."""
    facts = [machine_code_key(cores), *(os.environ.get(name, "") for name in _DEVICE_VARIABLES)]
    return user_cache() / "speeds" / f"devices_{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:16]}.json"


def speeds_directory() -> Path:
    """Return the directory of what was measured on this process's devices."""
    device = jax.devices()[0]
    machine = f"{machine_code_key()} {jax.device_count()} {jax.process_count()} {device.platform} {device.device_kind}"
    key = hashlib.sha256(machine.encode()).hexdigest()[:16]
    return user_cache() / "speeds" / key


def _path(stage: Stage) -> Path:
    return speeds_directory() / f"{stage_shape(stage)}.json"
