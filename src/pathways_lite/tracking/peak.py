"""The machine's peak FLOP/s in matrix products, which a training step is measured against."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from contextlib import suppress

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


@functools.cache
def machine_peak(dtype: str) -> float:
    """Return the FLOP/s of all devices of all processes: published if known, otherwise measured on one of them."""
    return jax.device_count() * (published_peak(jax.devices()[0].device_kind) or kept_peak(dtype))


def kept_peak(dtype: str) -> float:
    """Return the best of the first `_MEASUREMENTS` results of `measured_peak` on this machine, which are kept.

    Other programs that run meanwhile lower a measurement, so one alone is not kept for ever.
    """
    path = user_cache() / "peaks" / f"{machine_code_key()}_{dtype}.json"
    peaks: list[float] = []
    with suppress(OSError, ValueError, TypeError):
        peaks = [float(peak) for peak in json.loads(path.read_text())]
    if len(peaks) < _MEASUREMENTS:
        peaks.append(measured_peak(dtype))
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(path, json.dumps(peaks), shared=True)
    return max(peaks)


@functools.cache
def measured_peak(dtype: str, seconds: float = 2.0) -> float:
    """Measure the FLOP/s of the best square matrix product of `dtype` on one device (all cores of a CPU).

    Tries growing sizes in three layouts and returns the fastest single run. Takes at most about `seconds`, not counting
    compilation: a size is not tried if it would take longer. Measured once per process.
    """
    best, seconds_left = 0.0, seconds
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
    return best


def _time_call(product: Callable[..., jax.Array], x: jax.Array) -> float:
    start = time.perf_counter()
    product(x, x).block_until_ready()
    return time.perf_counter() - start
