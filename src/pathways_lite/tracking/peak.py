"""The machine's peak FLOP/s in matrix products, which a training step is measured against."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

# Dense bf16 FLOP/s of one device from the makers' public data sheets, by the beginning of jax's `device_kind`.
# The longest beginning that fits wins: "TPU v5 lite" (v5e) is no "TPU v5" (v5p), and a PCIe card no SXM module.
# None: known to be another device, of unknown rate.
_DATA_SHEETS: dict[str, float | None] = {
    "TPU v4": 275e12,
    "TPU v4 lite": None,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": None,
    "NVIDIA H200": 989e12,
}

# The layouts in a training step. XLA's CPU backend differs up to twofold between them, and the best one depends on the
# size, so the peak is the best of all.
_LAYOUTS: tuple[Callable[[jax.Array, jax.Array], jax.Array], ...] = (
    lambda a, b: a @ b,
    lambda a, b: a @ b.T,
    lambda a, b: a.T @ b,
)

_SIZES = (512, 1024, 2048, 4096, 8192, 16384)
_REPEATS = 3


def published_peak(device_kind: str) -> float | None:
    """Dense bf16 FLOP/s of one device of this kind by its data sheet; None where it is not known here."""
    fitting = [name for name in _DATA_SHEETS if device_kind.startswith(name)]
    return _DATA_SHEETS[max(fitting, key=len)] if fitting else None


@functools.cache
def machine_peak(dtype: str) -> float:
    """Return the FLOP/s of all devices of all processes: published if known, otherwise measured on one of them."""
    return jax.device_count() * (published_peak(jax.devices()[0].device_kind) or measured_peak(dtype))


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
