"""CPU cores that this process may use, and the number of threads that it computes with."""

from __future__ import annotations

import math
import os

from pathways_lite.cgroups import cpu_quota
from pathways_lite.errors import UserError, counted

# XLA's CPU client makes one pool of threads per process, of the size that is in these variables when JAX starts.
# PJRT's own one comes first; NPROC is also read by the code beneath.
_POOL_SIZE = ("PJRT_NPROC", "NPROC")


def usable_cores() -> list[int]:
    """Return the numbers of the usable cores, ascending: those of the process's affinity mask, where there is one."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_threads(cores: int | None = None) -> int:
    """Return how many threads can run at once: the usable cores, or the control group's share of them if smaller.

    `cores`: the number that a child process will be pinned to; None: those of this process.
    """
    cores, quota = len(usable_cores()) if cores is None else cores, cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def thread_count(cores: int | None = None) -> int:
    """Return the number of threads that XLA computes with on CPUs: what was chosen, or `usable_threads(cores)`."""
    chosen = next((os.environ[name] for name in _POOL_SIZE if os.environ.get(name, "").isdigit()), None)
    return max(1, int(chosen)) if chosen else usable_threads(cores)


def set_threads(threads: int | None) -> None:
    """Choose the number of threads that XLA computes with on CPUs. Call it before JAX starts; child processes inherit.

    None: as the environment says, or else `usable_threads`; without a control group's limit nothing is set, since XLA
    counts cores itself. Raises UserError for more threads than can run at once.
    """
    usable = usable_threads()
    if threads is None:
        if thread_count() == usable == len(usable_cores()) or any(os.environ.get(name) for name in _POOL_SIZE):
            return
        threads = usable
    elif threads > usable:
        raise UserError(
            f"--threads {threads}: this process may use {counted(usable, 'core')} at once; use at most {usable}"
        )
    for name in _POOL_SIZE:
        os.environ[name] = str(threads)
