"""`pathways-lite fit curves`: laws of loss curves under learning-rate schedules."""

from __future__ import annotations

import fnmatch
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.cli.fit_runs import is_study_or_runs, study_directory
from pathways_lite.cli.fit_table import (
    DecimalMark,
    RowChoice,
    Sheet,
    Where,
    output_path,
    read_rows,
)
from pathways_lite.intervals import plain
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.scaling.curves import Curve, CurveFit


def curves(
    files: Annotated[
        list[Path],
        typer.Argument(
            parser=local_path,
            help="a file per curve with columns step, lr and loss, or one with a column that names runs; or run "
            "directories, directories of them, or a study: their training losses",
        ),
    ],
    law: Annotated[str, typer.Option(help="multi-power or annealing; several: each")] = "multi-power",
    column: Annotated[
        list[str] | None,
        typer.Option("--column", help="columns by those of the files: step=Step lr=learning_rate loss=L"),
    ] = None,
    run: Annotated[str, typer.Option(help="the column that names the curve, where a file has several")] = "run",
    test: Annotated[
        list[str] | None, typer.Option(help="curves to predict, not to fit: a name, or a pattern like 'wsd*'")
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(min=0, help="steps of warm-up, where it is not logged; default: until the first one logged"),
    ] = None,
    skip: Annotated[int, typer.Option(min=0, help="leave out losses before this step")] = 0,
    momentum: Annotated[float, typer.Option(min=0, max=0.99999, help="of the annealing law's area")] = 0.999,
    seed: Annotated[int, typer.Option(help="random seed of the starts")] = 0,
    where: Where = None,
    decimal: DecimalMark = None,
    sheet: Sheet = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=local_path,
            help="file of the result; default: curves.json beside the first file, or in its directory",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a law of the loss along learning-rate schedules, and predict other schedules.

    Errors are per curve; the means over curves are what the papers report, the others are over all points. Writes JSON
    and a figure.

    Examples:

    - `pathways-lite fit curves cosine.csv constant.csv wsd.csv --test wsd`

    - `pathways-lite fit curves history.csv --run Name --law annealing --test 'wsd*'`

    - `pathways-lite fit curves runs/cosine runs/constant runs/wsd --test wsd`
    """
    from pathways_lite.console import Console, Table
    from pathways_lite.errors import UserError, did_you_mean
    from pathways_lite.output_lock import lock_file
    from pathways_lite.scaling.curves import CURVE_LAWS, fit_curves

    if law not in CURVE_LAWS:
        raise UserError(f"there is no law of curves {law!r}.{did_you_mean(law, CURVE_LAWS)}")
    read, notes = [], []
    for file in files:
        if is_study_or_runs(file):
            found, sentences = _curves_of_runs(file, warmup, skip)
        else:
            rows = read_rows(file, column, (), choice=RowChoice(where or (), False, decimal, sheet=sheet))
            found, sentences = _curves_of(file, rows.table, run, warmup, skip)
        read += found
        notes += sentences
    names = [curve.name for curve in read]
    tested = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in test or ())]
    if unmatched := [pattern for pattern in test or () if not fnmatch.filter(names, pattern)]:
        raise UserError(f"--test {unmatched[0]!r} is none of the curves.{did_you_mean(unmatched[0], names)}")
    fit = fit_curves(CURVE_LAWS[law], read, tested, momentum=momentum, seed=seed)
    from pathways_lite.scaling.curves_report import write_curves_report

    path = out or output_path(files[0], "curves.json")
    with lock_file(path):
        written = write_curves_report(fit, read, path)
    notes += fit.notes
    roles = [role for role in ("fit", "test") if any(error.role == role for error in fit.errors)]
    if as_json:
        print_json({
            "law": fit.law.name, "values": fit.solution.values, "curves": [asdict(error) for error in fit.errors],
            **{role: fit.summary(role) for role in roles}, "notes": notes, "files": written,
        })  # fmt: skip
        return
    console = Console()
    console.print(f"{fit.law.title}: {fit.law.formula}")
    console.print(", ".join(f"{name} {plain(value)}" for name, value in fit.solution.values.items()))
    grid = Table("curve", "", "points", "mean error", "worst", "at the end", "R²")
    for error in fit.errors:
        grid.add_row(
            error.name, "fitted" if error.role == "fit" else "predicted", str(error.points), f"{error.mean:.3%}",
            f"{error.worst:.3%}", plain(error.final, "+.3%"), plain(error.r2, ".5f"),
        )  # fmt: skip
    console.print(grid)
    for line in (*(_summary(fit, role) for role in roles), *notes, *written):
        typer.echo(line)


def _summary(fit: CurveFit, role: str) -> str:
    s = fit.summary(role)
    return (
        f"{'Fitted' if role == 'fit' else 'Predicted'}: means over curves {s['mean_over_curves']:.3%} and "
        f"{s['worst_over_curves']:.3%} (mean, worst); over all points {s['mean_over_points']:.3%} and "
        f"{s['worst_point']:.3%}."
    )


def _curves_of_runs(path: Path, warmup: int | None, skip: int) -> tuple[list[Curve], list[str]]:
    """Return the curves of the runs that `path` means."""
    from pathways_lite.scaling.curves import read_curve
    from pathways_lite.scaling.run_curves import run_curves

    tables, notes = run_curves(study_directory(path))
    found = []
    for name, table in tables.items():
        curve, sentences = read_curve(name, table, warmup=warmup, skip=skip)
        found.append(curve)
        notes += sentences
    return found, notes


def _curves_of(
    file: Path, table: dict[str, np.ndarray], run: str, warmup: int | None, skip: int
) -> tuple[list[Curve], list[str]]:
    """Return the curves of a file: one, or one per value of the column that names runs."""
    from pathways_lite.scaling.curves import read_curve

    if run not in table:
        curve, sentences = read_curve(file.stem, table, warmup=warmup, skip=skip)
        return [curve], sentences
    found, notes = [], []
    labels = np.array([str(value) for value in table[run]], dtype=object)
    for label in dict.fromkeys(labels.tolist()):
        rows = {name: column[labels == label] for name, column in table.items()}
        curve, sentences = read_curve(label, rows, warmup=warmup, skip=skip)
        found.append(curve)
        notes += sentences
    return found, notes
