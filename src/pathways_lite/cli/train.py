"""`pathways-lite train`: run a recipe, or go on with it."""

from __future__ import annotations

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
    from pathways_lite.training.host_memory import cpus_alone, keep_freed_memory

    loaded = load_recipe(recipe, overrides or ())
    if cpus_alone():
        keep_freed_memory()  # before JAX is imported, with the next lines
    if dry_run:
        from pathways_lite.training.run import describe

        typer.echo(describe(loaded))
        return
    from pathways_lite.parallel import hosts

    hosts.start(coordinator, processes, process)
    trackers = [] if track == ["none"] else track or ["tensorboard"]
    status = _train(loaded, out or Path("runs") / loaded.name, trackers, hang_timeout or None)
    if status:
        _end(status)


def _train(recipe: Recipe, out: Path, trackers: list[str], hang_timeout: float | None) -> int:
    """The exit status, after everything that is to be said about it."""
    import traceback

    from pathways_lite.cli.errors import show
    from pathways_lite.errors import UserError
    from pathways_lite.parallel import hosts
    from pathways_lite.parallel.vigil import farewell
    from pathways_lite.training.run import train_run

    who = f"process {hosts.index()}: " if hosts.count() > 1 else ""
    try:
        status = train_run(recipe, out, trackers=trackers, hang_timeout=hang_timeout)
        hosts.leave()
        return status
    except UserError as error:
        if farewell(str(error), error.status):
            show(error if hosts.is_first() else UserError(f"{who}{error}"))
        return error.status
    except Exception as error:
        if hosts.count() == 1:
            raise
        told = f"{type(error).__name__}: {error}"
        if farewell(told, 1):
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
