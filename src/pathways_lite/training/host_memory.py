"""Keeping a CPU train step's memory between steps."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform

# mallopt(3), malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed, for this process; True where that was possible (Linux with glibc).

    XLA's CPU backend allocates a program's temporaries anew at each call. malloc maps such large pieces and unmaps
    them when they are freed, so every step page-faults through all of its memory: a fifth of a step's CPU time at 8
    layers and d_model 256. All from one arena, never mapped and never trimmed, the second step finds it there.
    The process then stays as large as it ever was. To be called before JAX starts its threads.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Of several arenas only the first grows by brk; the others hold 64 MiB at most and map what is larger.
    options = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
    return all(mallopt(option, value) == 1 for option, value in options)


def cpus_alone() -> bool:
    """Whether JAX, once imported, can only run on this machine's CPUs: asked for, or nothing else is installed."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))
