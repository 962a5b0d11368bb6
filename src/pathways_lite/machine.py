"""What this machine is, as far as machine code and measured times depend on it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

from pathways_lite.cpu_cores import thread_count


def machine_code_key(cores: int | None = None) -> str:
    """Return a name for what machine code depends on besides the program: CPU, threads, compilers.

    `cores`: the number that a child process will be pinned to; None: of this process.
    """
    return _machine_code_key(thread_count(cores))


@functools.cache
def _machine_code_key(threads: int) -> str:
    packages = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "jax-cuda13-pjrt", "jax-cuda12-plugin")
    facts = [platform.system(), platform.machine(), cpu_description(), str(threads)]
    facts += [f"{name} {_version(name)}" for name in packages]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def cpu_description() -> str:
    """Return the CPU's model and instruction sets, as far as the system tells; one line per different fact."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "cpu family", "model", "stepping", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(sorted({line for line in lines if line.partition(":")[0].strip() in names}))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
