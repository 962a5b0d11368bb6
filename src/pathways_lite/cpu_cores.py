"""CPU cores that this process may use."""

from __future__ import annotations

import os


def usable_cores() -> list[int]:
    """Return the numbers of the usable cores, ascending: those of the process's affinity mask, where there is one."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
