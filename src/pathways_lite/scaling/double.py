"""Double precision for fits, and for nothing else in the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def double_precision() -> Iterator[None]:
    """JAX computes in float64 inside, and as before outside.

    A sum-Huber objective is about 1e-3 and its gradient at the optimum 1e-6 of that: float32 cannot see either. The
    switch is a property of the thread's context, so that training code never meets it. Accelerators without native
    float64 (TPUs) leave the work to the CPU.
    """
    device = None if jax.default_backend() in ("cpu", "gpu") else jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(device):
        yield
