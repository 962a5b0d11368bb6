"""Options of XLA's CPU backend for the train step."""

from __future__ import annotations

import jax

CPU_OPTIONS: dict[str, str] = {}


def cpu_compiler_options(platform: str | None = None) -> dict[str, str]:
    """For `lowered.compile(compiler_options=...)`: what helps on a CPU, and nothing on any other platform.

    `platform` is the one compiled for; None takes that of jax's default devices.
    """
    return dict(CPU_OPTIONS) if (platform or jax.default_backend()) == "cpu" else {}
