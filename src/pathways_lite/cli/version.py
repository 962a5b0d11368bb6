"""`pathways-lite --version`: versions, and the devices that are computed on, as a report of a fault needs them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import typer

from pathways_lite.provenance import MAIN_PACKAGES
from pathways_lite.version import __version__


def show_version(asked: bool) -> None:
    """Print versions at once, then what JAX finds, whose start takes a second or more; and end the command."""
    if not asked:
        return
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    typer.echo(f"pathways-lite {__version__}, {system}")
    typer.echo(", ".join(f"{name} {_installed(name)}" for name in MAIN_PACKAGES))
    try:
        typer.echo(f"attention on CPUs: {_cpu_attention()}")
        typer.echo(f"devices: {_devices()}")
    except ImportError as error:
        typer.echo(f"JAX cannot be imported: {error}")
    raise typer.Exit


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"


def _cpu_attention() -> str:
    from pathways_kernels.attention.support import cpu_library_reason

    reason = cpu_library_reason()
    return "compiled" if reason is None else f"plain XLA; of the compiled one: {reason}"


def _devices() -> str:
    from pathways_lite.accelerators import leave_out_missing_tpu

    leave_out_missing_tpu()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU's memory, which another may be using
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:  # e.g. another process has the TPU
        return f"none that JAX can use ({str(error).splitlines()[0]})"
    kinds = {device.device_kind for device in devices}
    return f"{len(devices)} x {' and '.join(sorted(kinds))} ({devices[0].platform})"
