"""`pathways-lite train`: run a recipe, or go on with it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathways_lite.recipe import Recipe


def train(
    recipe: Annotated[str, typer.Argument(help="a Python file with a function recipe(), or a resolved recipe.json")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="path=value, e.g. stages.base.optimizer.learning_rate=3e-4")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run directory; by default runs/NAME of the recipe")] = None,
    track: Annotated[list[str] | None, typer.Option(help="also log to: tensorboard (default), wandb, none")] = None,
    dry_run: Annotated[bool, typer.Option(help="say what would be trained and what it costs, and stop")] = False,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="where process 0 is, for processes started by hand")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="how many there are")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="which one this is")] = None,
    hang_timeout: Annotated[
        float, typer.Option(min=0, help="seconds without a step after which it ends with status 75; 0: never")
    ] = 600.0,
) -> None:
    """Train a recipe's stages in order, from wherever the run directory is.

    Running the same command again goes on after an interruption, bit for bit as if there had been none. SIGINT and
    SIGTERM save and exit; a second one exits at once.

    On many hosts give the same command on each: Slurm, Open MPI, GKE and TPU pods are recognised, and anywhere else the
    three options say who is who. The run directory must be on a file system that all of them share.

    Examples:

    - `pathways-lite train configs/demo.py`

    - `pathways-lite train configs/demo.py stages.base.optimizer=adamw stages.base.budget="1e6 tokens" --out runs/adamw`

    - `pathways-lite train configs/demo.py --coordinator host0:1234 --processes 2 --process 0`
    """
    from pathways_lite.recipe import load_recipe

    pass

    loaded = load_recipe(recipe, overrides or ())
    if cpus_alone():
        keep_freed_memory()  # before JAX is imported, with the next lines
    if dry_run:
        from pathways_lite.training.run import describe

        typer.echo(describe(loaded))
        return
    from pathways_lite.distributed import coordination

    coordination.initialize(coordinator, processes, process)
    trackers = [] if track == ["none"] else track or ["tensorboard"]
    status = _train(loaded, out or Path("runs") / loaded.name, trackers, hang_timeout or None)
    if status:
        _end(status)


def _train(recipe: Recipe, out: Path, trackers: list[str], hang_timeout: float | None) -> int:
    """The exit status, after everything that is to be said about it."""
    import traceback

    from pathways_lite.cli.common import show
    from pathways_lite.distributed import coordination
    from pathways_lite.distributed.monitor import announce_failure
    from pathways_lite.errors import UserError
    from pathways_lite.training.run import train_run

    who = f"process {coordination.process_index()}: " if coordination.process_count() > 1 else ""
    try:
        status = train_run(recipe, out, trackers=trackers, hang_timeout=hang_timeout)
        coordination.shutdown()
        return status
    except UserError as error:
        if announce_failure(str(error), error.status):
            show(error if coordination.is_primary() else UserError(f"{who}{error}"))
        return error.status
    except Exception as error:
        if coordination.process_count() == 1:
            raise
        told = f"{type(error).__name__}: {error}"
        if announce_failure(told, 1):
            traceback.print_exc()
            show(UserError(f"{who}{told.splitlines()[0]}. If another process has died, start all of them again."))
        return 1


def _end(status: int) -> None:
    """Without the interpreter's own end: a compiling thread would keep or break it, and a dead process the others'."""
    import os
    import sys

    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# Keeping a CPU train step's memory between steps.


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
