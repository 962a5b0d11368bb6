"""`pathways-lite train`: run a recipe, or go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="a Python file with a function recipe(), or a resolved recipe.json")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="path=value, e.g. stages.base.optimizer.learning_rate=3e-4")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run directory; by default runs/NAME of the recipe")] = None,
    track: Annotated[list[str] | None, typer.Option(help="also log to: tensorboard (default), wandb, none")] = None,
    dry_run: Annotated[bool, typer.Option(help="say what would be trained and what it costs, and stop")] = False,
) -> None:
    """Train a recipe's stages in order, from wherever the run directory is.

    Running the same command again goes on after an interruption, bit for bit as if there had been none. SIGINT and
    SIGTERM save and exit; a second one exits at once.

    Examples:

    - `pathways-lite train configs/demo.py`

    - `pathways-lite train configs/demo.py stages.base.optimizer=adamw stages.base.budget="1e6 tokens" --out runs/adamw`
    """
    import os
    import sys

    from pathways_lite.cli.errors import show
    from pathways_lite.errors import UserError
    from pathways_lite.recipe import load_recipe
    from pathways_lite.training.host_memory import cpus_alone, keep_freed_memory

    loaded = load_recipe(recipe, overrides or ())
    if cpus_alone():
        keep_freed_memory()  # before JAX is imported, with the next line
    from pathways_lite.training.run import describe, train_run

    if dry_run:
        typer.echo(describe(loaded))
        return
    trackers = [] if track == ["none"] else track or ["tensorboard"]
    try:
        status = train_run(loaded, out or Path("runs") / loaded.name, trackers=trackers)
    except UserError as error:
        show(error)
        status = 2
    if status:
        # The train step may still be compiling, in a thread that would keep or break the interpreter's own end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
