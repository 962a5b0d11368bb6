"""`pathways-lite runs`: list runs with their progress, and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathways_lite.cli.common import AsJson, group_with_default, print_json
from pathways_lite.console import print_line
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.comparison.compare import Arm
    from pathways_lite.comparison.metric import Metric


# `runs`, `runs DIRECTORY` and `runs --json` mean `runs list ...`.
app = typer.Typer(
    cls=group_with_default("list", bare=True),
    help="List, compare and tabulate runs. `pathways-lite runs` alone lists them.",
    rich_markup_mode="markdown",
)


@app.command("list")
def list_runs(
    directory: Annotated[
        Path, typer.Argument(parser=local_path, help="a directory of run directories, or one run directory")
    ] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per stage, each on a line")] = False,
) -> None:
    """List runs with stage, step, loss, held-out bits per byte, compute and state.

    States: `done`, `running` (a process holds its lock), `stopped` (the same train command continues it), `waiting`
    (for the previous stage).

    Example: `pathways-lite runs`
    """
    from pathways_lite.console import Console, Table
    from pathways_lite.tracking.formatting import NOT_A_CODE_LENGTH, si

    rows = [row for run in _run_directories(directory) for row in _stage_rows(run)]
    if as_json:
        for row in rows:
            print_json(row)
        return
    if not rows:
        typer.echo(f"there are no runs in {directory}; `pathways-lite train configs/demo.py` makes one")
        return
    table = Table("run", "stage", "step", "loss", "bits per byte", "tokens", "FLOPs", "state")
    for row in rows:
        mark = "*" if row.get("lossy") else ""  # not a code length
        bits = ", ".join(f"{name} {value:.3f}{mark}" for name, value in row["bits_per_byte"].items())
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
    if any(row.get("lossy") for row in rows):
        table.caption = NOT_A_CODE_LENGTH
    Console().print(table)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="run directories, or NAME=RUN,RUN,... for the seeds of one arm"),
    ],
    of: Annotated[str, typer.Option(help="which loss: held-out or train")] = "held-out",
    unit: Annotated[str, typer.Option(help="unit: loss (nats per token) or bits_per_byte")] = "loss",
    domain: Annotated[str | None, typer.Option(help="domain of the held-out text; default: all of it")] = None,
    window: Annotated[int, typer.Option(min=1, help="smooth by the mean of this many points around each point")] = 1,
    target: Annotated[float | None, typer.Option(help="loss at which to compare compute")] = None,
    flops: Annotated[str, typer.Option(help="dense, as hardware spends them, or sparse, without zeros")] = "dense",
    as_json: AsJson = False,
) -> None:
    """Compare runs at equal FLOPs and at equal loss; the first one is the baseline.

    FLOPs include those of the models that a run started from. Runs with the same seed are paired.

    Examples:

    - `pathways-lite runs compare runs/adamw runs/muon`

    - `pathways-lite runs compare adamw=runs/a0,runs/a1,runs/a2 muon=runs/m0,runs/m1,runs/m2 --unit bits_per_byte`
    """
    from pydantic import ValidationError

    from pathways_lite.comparison.metric import Metric
    from pathways_lite.comparison.table import Results
    from pathways_lite.console import Console, Table
    from pathways_lite.errors import UserError
    from pathways_lite.recipe.mistakes import format_validation_error

    try:
        metric = Metric.model_validate({"of": of, "unit": unit, "domain": domain, "window": window, "flops": flops})
    except ValidationError as error:
        raise UserError(format_validation_error(error, "runs compare")) from error
    arms = _read_arms(runs, metric)
    results = Results.compare_arms(arms, arms[0].name, metric, target)
    if as_json:
        from pathways_lite.studies.figures import CSV_HEADER, csv_rows

        compared = [dict(zip(CSV_HEADER, row, strict=True)) for row in csv_rows(domain or "", results)]
        print_json({"metric": metric.model_dump(), "arms": compared, "notes": results.notes()})
        return
    console = Console()
    for header, rows in ((results.header, results.rows()), (results.time_header, results.time_rows())):
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in results.notes():
        console.print(note)


def _read_arms(arguments: list[str], metric: Metric) -> list[Arm]:
    """Read the arms that the arguments name. Raises UserError for fewer than two arms, or for equal names."""
    from pathways_lite.comparison.compare import Arm
    from pathways_lite.comparison.curves import read_curve
    from pathways_lite.errors import UserError
    from pathways_lite.tracking.run_data import read_run

    arms = []
    for argument in arguments:
        name, equals, paths = argument.partition("=")
        directories = paths.split(",") if equals else [argument]
        arms.append(Arm(name, tuple(read_curve(read_run(path), metric, path) for path in directories)))
    names = [arm.name for arm in arms]
    if len(arms) < 2 or len(set(names)) < len(names):
        raise UserError(f"compare at least two different runs or arms, not {', '.join(names)}")
    return arms


def _run_directories(directory: Path) -> list[Path]:
    """Return the run directories at or directly below `directory`, the newest last."""
    if (directory / "recipe.json").is_file():
        return [directory]
    runs = [path.parent for path in directory.glob("*/recipe.json")]
    return sorted(runs, key=lambda path: (path / "recipe.json").stat().st_mtime)


def _stage_rows(path: Path) -> list[dict[str, Any]]:
    """Return a row for each stage of a run: its progress, loss, compute and state, as JSON."""
    from pathways_lite.run_lock import find_holder
    from pathways_lite.tracking.run_data import read_run

    running = find_holder(path) is not None
    rows = []
    run = read_run(path)
    for problem in run.problems:
        print_line(f"warning: {problem}")
    for stage in run.stages:
        state = "done" if stage.is_finished else "waiting"
        if not stage.is_finished and (stage.has_begun or running):
            state, running = ("running" if running else "stopped"), False
        last = stage.last_counts
        train = stage.rows_of_kind("train")
        rows.append(
            {
                "run": str(path),
                "stage": stage.name,
                "step": last.get("step", 0),
                "total_steps": stage.ledger.get("total_steps"),
                "loss": train[-1]["loss"] if train else None,
                "bits_per_byte": {name: result["bits_per_byte"] for name, result in stage.evaluation.items()},
                **({"lossy": True} if any(r.get("lossy") for r in stage.evaluation.values()) else {}),
                "total_tokens": last.get("total_tokens", 0),
                "total_flops": last.get("total_flops", 0),
                "state": state,
            }
        )
    return rows
