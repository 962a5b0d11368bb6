"""`pathways-lite runs`: what there is, and how far it is; further verbs for many runs at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _ListByDefault(TyperGroup):
    """`runs`, `runs DIRECTORY` and `runs --json` mean `runs list ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ListByDefault,
    help="Look at many runs at once. `pathways-lite runs` alone lists them.",
    rich_markup_mode="markdown",
)


@app.command("list")
def list_runs(
    directory: Annotated[Path, typer.Argument(help="where the run directories are, or one run directory")] = Path(
        "runs"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per stage and line")] = False,
) -> None:
    """List runs with stage, step, loss, held-out bits per byte, compute and state.

    States: `done`, `running` (a process holds it), `stopped` (give the same train command to go on), `waiting`
    (for the stage before).

    Example: `pathways-lite runs`
    """
    from rich.console import Console
    from rich.table import Table

    from pathways_lite.tracking.numbers import si

    rows = [row for run in _run_directories(directory) for row in _stages(run)]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    if not rows:
        typer.echo(f"no runs in {directory}; `pathways-lite train configs/demo.py` makes one")
        return
    table = Table("run", "stage", "step", "loss", "bits per byte", "tokens", "FLOPs", "state")
    for row in rows:
        bits = ", ".join(f"{name} {value:.3f}" for name, value in row["bits_per_byte"].items())
        table.add_row(
            row["run"],
            row["stage"],
            f"{row['step']:,}" + (f"/{row['total_steps']:,}" if row["total_steps"] else ""),
            "" if row["loss"] is None else f"{row['loss']:.4f}",
            bits,
            si(row["total_tokens"]),
            si(row["total_flops"]),
            row["state"],
        )
    Console().print(table)


def _run_directories(directory: Path) -> list[Path]:
    """The run directories at or directly below `directory`, the newest last."""
    if (directory / "recipe.json").is_file():
        return [directory]
    found = [path.parent for path in directory.glob("*/recipe.json")]
    return sorted(found, key=lambda path: (path / "recipe.json").stat().st_mtime)


def _stages(path: Path) -> list[dict[str, Any]]:
    """What is known of each stage of a run, as JSON."""
    from pathways_lite.run_lock import holder
    from pathways_lite.tracking.run_data import read_run

    running = holder(path) is not None
    rows = []
    for known in read_run(path).stages:
        state = "done" if known.finished else "waiting"
        if not known.finished and (known.begun or running):
            state, running = ("running" if running else "stopped"), False
        last = known.last
        train = known.of_kind("train")
        rows.append(
            {
                "run": str(path),
                "stage": known.name,
                "step": last.get("step", 0),
                "total_steps": known.ledger.get("total_steps"),
                "loss": train[-1]["loss"] if train else None,
                "bits_per_byte": {name: result["bits_per_byte"] for name, result in known.evaluation.items()},
                "total_tokens": last.get("total_tokens", 0),
                "total_flops": last.get("total_flops", 0),
                "state": state,
            }
        )
    return rows
