"""The machine's peak FLOP/s in matrix products, which a training step is measured against."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jax
import jax.numpy as jnp

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.chips import published_peak
from pathways_lite.machine import machine_code_key
from pathways_lite.paths import user_cache

# The layouts in a training step. XLA's CPU backend differs up to twofold between them, and the best one depends on the
# size, so the peak is the best of all.
_LAYOUTS: tuple[Callable[[jax.Array, jax.Array], jax.Array], ...] = (
    lambda a, b: a @ b,
    lambda a, b: a @ b.T,
    lambda a, b: a.T @ b,
)

_SIZES = (512, 1024, 2048, 4096, 8192, 16384)
_REPEATS = 3
_MEASUREMENTS = 3  # in as many processes
PEAK_SECONDS = 2.0
"""About what a measurement takes at most, not counting compilation."""

_spent = 0.0  # seconds of measurements in this process


@functools.cache
def machine_peak(dtype: str) -> float:
    """Return the FLOP/s of all devices of all processes: published if known, otherwise measured on one of them."""
    return jax.device_count() * (published_peak(jax.devices()[0].device_kind) or kept_peak(dtype))


def kept_peak(dtype: str) -> float:
    """Return the best of the first `_MEASUREMENTS` results of `measured_peak` on this machine, which are kept.

    Other programs that run meanwhile lower a measurement, so one alone is not kept for ever.
    """
    path = _path(dtype)
    peaks = _read(path)
    if len(peaks) < _MEASUREMENTS:
        peaks.append(measured_peak(dtype))
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(path, json.dumps(peaks), shared=True)
    return max(peaks)


def missing_measurements(dtype: str, cores: int | None = None) -> int:
    """Return how many processes on `cores` cores (default: those of this one) have yet to measure the peak of a CPU."""
    return max(0, _MEASUREMENTS - len(_read(_path(dtype, cores))))


def seconds_of_peak() -> float:
    """Return the seconds that this process has spent measuring the peak."""
    return _spent


def _path(dtype: str, cores: int | None = None) -> Path:
    return user_cache() / "peaks" / f"{machine_code_key(cores)}_{dtype}.json"


def _read(path: Path) -> list[float]:
    with suppress(OSError, ValueError, TypeError):
        return [float(peak) for peak in json.loads(path.read_text())]
    return []


@functools.cache
def measured_peak(dtype: str, seconds: float = PEAK_SECONDS) -> float:
    """Measure the FLOP/s of the best square matrix product of `dtype` on one device (all cores of a CPU).

    Tries growing sizes in three layouts and returns the fastest single run. Takes at most about `seconds`, not counting
    compilation: a size is not tried if it would take longer. Measured once per process.
    """
    global _spent
    begin, best, seconds_left = time.perf_counter(), 0.0, seconds
    for size in _SIZES:
        flops = 2 * size**3
        # One warm-up run and the timed ones, per layout, at the best rate so far.
        if best and flops / best * len(_LAYOUTS) * (_REPEATS + 1) > seconds_left:
            break
        x = jnp.ones((size, size), dtype)
        for layout in _LAYOUTS:
            product = jax.jit(layout).lower(x, x).compile()
            runs = [_time_call(product, x) for _ in range(_REPEATS + 1)]
            best = max(best, flops / min(runs))
            seconds_left -= sum(runs)
    _spent += time.perf_counter() - begin
    return best


def _time_call(product: Callable[..., jax.Array], x: jax.Array) -> float:
    start = time.perf_counter()
    product(x, x).block_until_ready()
    return time.perf_counter() - start
