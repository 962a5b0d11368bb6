"""Host memory of train steps on CPUs: what malloc may do so that a step reuses the memory of the one before."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from pathlib import Path

# Parameters of mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8

_DEVICES = Path("/dev")
_DEVICE_FILES = ("accel*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd", "dxg")
"""There, of TPUs (both drivers), of GPUs of NVIDIA and of AMD, and of either under Windows' WSL."""


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed memory in this process; returns True if possible (Linux with glibc).

    XLA's CPU backend allocates a program's temporaries again at each call. malloc maps such large blocks and unmaps
    them when they are freed, so every step page-faults through all of its memory: a fifth of a step's CPU time at 8
    layers and d_model 256. With a single arena that is never mapped or trimmed, the second step reuses the memory of
    the first. The process then never shrinks. Call it before JAX starts its threads.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Only the first arena grows by brk; others hold 64 MiB at most and map larger blocks.
    options = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
    return all(mallopt(option, value) == 1 for option, value in options)


def runs_on_cpu_only() -> bool:
    """Return True if JAX can only run on CPUs: JAX_PLATFORMS says so, or there is no accelerator or no library for it.

    Plans for TPUs need libtpu where there is none, so that on Linux its device files count, and not the library alone.
    """
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    if not any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins")):
        return True
    return sys.platform == "linux" and not any(any(_DEVICES.glob(pattern)) for pattern in _DEVICE_FILES)
