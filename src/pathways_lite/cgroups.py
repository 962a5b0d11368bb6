"""Limits that the operating system sets on this process: CPU time and memory of its control groups (containers)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cpu_quota() -> float | None:
    """Return how many cores' worth of time this process may use; None if it is not limited."""
    quotas = []
    for text in _values("cpu.max"):  # version 2: "QUOTA PERIOD" or "max PERIOD", in microseconds
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    for quota, period in zip(
        _values("cpu.cfs_quota_us", "cpu"), _values("cpu.cfs_period_us", "cpu"), strict=False
    ):  # version 1: -1 is no limit
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """Return the bytes of memory that this process's control groups allow; None if they do not limit it."""
    texts = [*_values("memory.max"), *_values("memory.limit_in_bytes", "memory")]
    physical = physical_memory()
    limits = [int(text) for text in texts if text.isdigit()]  # "max" is no limit
    return min((limit for limit in limits if physical is None or limit < physical), default=None)


def physical_memory() -> int | None:
    """Return the bytes of memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not on Windows
        return None


def usable_memory() -> int | None:
    """Return the bytes of memory that this process may use; None where the system does not say."""
    return min((size for size in (physical_memory(), memory_limit()) if size is not None), default=None)


def _values(name: str, controller: str = "") -> Iterator[str]:
    """Yield the setting `name` of this process's group and of those around it; version 1 has one tree a controller."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        # Inside a container the group may be named as the host sees it; then only the root is there.
        inner = Path(group.lstrip("/"))
        for directory in (inner, *inner.parents):
            try:
                yield (ROOT / controller / directory / name).read_text().strip()
            except OSError:
                continue
