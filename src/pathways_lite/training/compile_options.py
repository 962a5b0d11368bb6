"""Options of XLA's CPU backend."""

from __future__ import annotations

import jax


def run_once_options() -> dict[str, str]:
    """For `lowered.compile(compiler_options=...)` of a program that runs once, such as the initialisation.

    On a CPU, where compiling it takes longer than running it, less optimisation: a third of the time, the same bits.
    Nothing on any other platform.
    """
    return {"xla_backend_optimization_level": "1"} if jax.default_backend() == "cpu" else {}
