"""`pathways-lite runs`: list runs with their progress, and compare them."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathways_lite.cli.common import AsJson, group_with_default, print_json
from pathways_lite.console import print_line
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.comparison.compare import Arm
    from pathways_lite.comparison.metric import Metric
    from pathways_lite.console import Table

_LONGEST_REASON = 80  # characters in the table; --json has all

# `runs`, `runs DIRECTORY` and `runs --json` mean `runs list ...`.
app = typer.Typer(
    cls=group_with_default("list", bare=True),
    help="List, compare and tabulate runs. `pathways-lite runs` alone lists them.\n\n"
    "Example: `pathways-lite runs compare runs/base runs/variant`.",
    rich_markup_mode="markdown",
)


@app.command("list")
def list_runs(
    directory: Annotated[
        Path, typer.Argument(parser=local_path, help="a directory of run directories, or one run directory")
    ] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per stage, each on a line")] = False,
) -> None:
    """List runs, those of studies included: step, losses, compute, size on disk, age and state.

    States: `done`, `running` (a process holds its lock), `stopped` (the same train command continues it), `failed`
    (the same command tries again), `ready` (not begun), `waiting` (for the previous stage). The step is the last one
    logged or saved. The runs of a study stand together; the newest run or study is last. Then come the checkpoints of
    `grow`, `merge` and `convert`, in the state `checkpoint`.

    Examples:

    - `pathways-lite runs`

    - `pathways-lite runs runs/my_study --json`
    """
    from pathways_lite.console import Console
    from pathways_lite.errors import UserError, similar_path
    from pathways_lite.runs.find import directory_bytes, find_outputs, find_runs, leftovers
    from pathways_lite.runs.states import output_row, stage_rows
    from pathways_lite.tracking.formatting import si

    if not directory.exists() and directory != Path("runs"):
        raise UserError(
            f"{directory} does not exist; `pathways-lite runs` lists the runs in runs/{similar_path(directory)}"
        )
    rows: list[dict[str, Any]] = []
    for run in find_runs(directory):
        of_run, problems = stage_rows(run)
        rows += of_run
        for problem in problems:
            print_line(f"warning: {problem}")
    rows += map(output_row, find_outputs(directory))
    for path in leftovers(directory):
        print_line(
            f"{path} ({si(directory_bytes(path), 'B')}) is left of a deletion that was interrupted; "
            "the next `pathways-lite runs delete` there removes it"
        )
    if as_json:
        for row in rows:
            print_json(row)
        return
    if not rows:
        typer.echo(f"there are no runs in {directory}; `pathways-lite train configs/demo.py` makes one")
        return
    Console().print(_list_table(rows))


def _list_table(rows: list[dict[str, Any]]) -> Table:
    """Return a table with a row per stage; arms and seeds are columns where there are studies."""
    from pathways_lite.console import Table
    from pathways_lite.runs.find import directory_bytes
    from pathways_lite.tracking.formatting import COST_NOTES, NOT_A_CODE_LENGTH, age, si, total_cost

    of_study = ("arm", "seed") if any("arm" in row for row in rows) else ()
    table = Table("run", *of_study, "stage", "step", "loss", "bits per byte", "tokens", "FLOPs", "size", "age", "state")
    for row in rows:
        mark = "*" if row.get("lossy") else ""  # not a code length
        table.add_row(
            row["run"],
            *(str(row.get(name, "")) for name in of_study),
            row["stage"],
            f"{row['step']:,}" + (f"/{row['total_steps']:,}" if row["total_steps"] else ""),
            "" if row["mean_loss"] is None else f"{row['mean_loss']:.4f}",
            ", ".join(f"{name} {value:.3f}{mark}" for name, value in row["bits_per_byte"].items()),
            si(row["total_tokens"]),
            total_cost(row["total_flops"], row.get("cost_elsewhere")),
            si(row["bytes"], "B"),
            "" if row["age"] is None else age(row["age"]),
            _state(row),
        )
    notes = ["loss: of training, the mean since the log row before, as the progress line shows it"]
    for study in {row["study"]: None for row in rows if "study" in row}:
        beside = directory_bytes(Path(study)) - sum(row["bytes"] for row in rows if row.get("study") == study)
        notes.append(f"size: {study} has {si(max(0, beside), 'B')} beside its runs")
    notes += [NOT_A_CODE_LENGTH] * any(row.get("lossy") for row in rows)
    table.caption = "\n".join(notes + [COST_NOTES[cost] for cost in COST_NOTES if cost in _costs_elsewhere(rows)])
    return table


def _costs_elsewhere(rows: list[dict[str, Any]]) -> set[str]:
    return {row["cost_elsewhere"] for row in rows if "cost_elsewhere" in row}


def _state(row: dict[str, Any]) -> str:
    """Return the state for people: where it continues, and with what it failed."""
    if row.get("stopped_early"):
        return f"{row['state']}, stopped early"
    if row.get("quantization"):
        return f"{row['state']}, {row['quantization']}"
    reason = f": {shorten(row['reason'], _LONGEST_REASON)}" if row.get("reason") else ""
    if row["state"] not in ("stopped", "failed"):
        return f"{row['state']}{reason}"
    saved = row["saved_step"]
    return f"{row['state']}{reason}; " + (f"continues at step {saved:,}" if saved else "begins again")


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

    FLOPs include those of the models that a run started from; where one was imported and its cost is unknown, they are
    those spent here, and no speed-up is given in total FLOPs. Runs with the same seed are paired. Then: what differs
    in the recipes, and in the code, packages and devices, between the first runs of the arms.

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
    from pathways_lite.tracking.formatting import round_apart

    try:
        metric = Metric.model_validate({"of": of, "unit": unit, "domain": domain, "window": window, "flops": flops})
    except ValidationError as error:
        raise UserError(format_validation_error(error, "runs compare")) from error
    arms, pasts = _read_arms(runs, metric)
    results = Results.compare_arms(arms, arms[0].name, metric, target)
    notes = [*results.notes(), *pasts]
    if as_json:
        from pathways_lite.studies.figures import CSV_HEADER, csv_rows

        compared = [
            {name: None if cell == "" else cell for name, cell in zip(CSV_HEADER, row, strict=True)}
            for row in csv_rows(domain or "", results)
        ]
        differences = {
            name: {path: [_json_value(value) for value in values] for path, values in rows.items()}
            for name, rows in _differences(runs).items()
            if rows is not None
        }
        print_json({"metric": metric.model_dump(), "arms": compared, "notes": notes, **differences})
        return
    console = Console()
    for header, rows in ((results.header, results.rows()), (results.time_header, results.time_rows())):
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        if rows:
            console.print(table)
    for note in (*notes, *results.time_notes()):
        console.print(note)
    for name, rows_of in _differences(runs).items():
        what = name.partition("_")[0]
        if rows_of is None:
            console.print(f"{what}: not recorded for all runs, which are of an earlier version")
        elif not rows_of:
            console.print(f"{what}: nothing differs")
        else:
            table = Table(f"{what} differs", *(arm.name for arm in arms))
            for path, values in rows_of.items():
                shown = round_apart([value if value is None else str(value) for value in values])
                table.add_row(path, *("–" if value is None else value for value in shown))
            console.print(table)


def _json_value(text: Any) -> Any:
    """Return the value that an override's text stands for: JSON where it is, or else the text."""
    import json

    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text


def _read_arms(arguments: list[str], metric: Metric) -> tuple[list[Arm], list[str]]:
    """Read the arms that the arguments name, and say what led to their runs in other runs.

    Raises UserError for fewer than two arms, or for equal names.
    """
    from pathways_lite.comparison.compare import Arm
    from pathways_lite.comparison.curves import read_curve
    from pathways_lite.comparison.past import read_past
    from pathways_lite.errors import UserError
    from pathways_lite.tracking.run_data import read_run

    arms, sentences = [], list[str]()
    for argument in arguments:
        name, directories = _arm_of(argument)
        curves = []
        for path in directories:
            run = read_run(path)
            past = read_past(run, metric)
            curves.append(read_curve(run, metric, path, past=past.stages))
            sentences += [past.sentence] if past.sentence else []
        arms.append(Arm(name, tuple(curves)))
    names = [arm.name for arm in arms]
    if len(arms) < 2 or len(set(names)) < len(names):
        raise UserError(f"compare at least two different runs or arms, not {', '.join(names)}")
    return arms, sentences


def _arm_of(argument: str) -> tuple[str, list[str]]:
    """Return the name and the runs of an arm, `NAME=RUN,RUN,...` or a run directory."""
    name, equals, paths = argument.partition("=")
    return name, paths.split(",") if equals else [argument]


def _differences(arguments: list[str]) -> dict[str, dict[str, list[Any]] | None]:
    """Return where the first runs of the arms differ, by path: in their recipes, and in their provenance.

    None where a run does not say: it is of an earlier version, or its recipe is of a later one.
    """
    from pathways_lite.errors import UserError
    from pathways_lite.provenance import provenance_differences
    from pathways_lite.recipe import recipe_differences
    from pathways_lite.run_directory import RunDirectory
    from pathways_lite.run_history import last_start, read_history

    directories = [local_path(_arm_of(argument)[1][0]) for argument in arguments]
    starts = [last_start(read_history(directory)) for directory in directories]
    try:
        recipes = recipe_differences([RunDirectory(directory).recipe() for directory in directories])
        recipes.pop("name", None)
    except UserError:
        recipes = None
    known = [start for start in starts if start is not None]
    return {
        "recipe_differences": recipes,
        "provenance_differences": provenance_differences(known) if len(known) == len(starts) else None,
    }
