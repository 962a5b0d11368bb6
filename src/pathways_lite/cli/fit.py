"""`pathways-lite fit`: fit scaling laws to tables of runs, and predict from them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathways_lite.cli.common import AsJson, count_progress, group_with_default, print_json
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.intervals import Interval
    from pathways_lite.scaling.table import Table as RunsTable


# `fit chinchilla runs.csv` means `fit law chinchilla runs.csv`.
app = typer.Typer(
    cls=group_with_default("law", bare=False),
    help="Fit scaling laws to tables of runs, and predict from them: `fit LAW TABLE`, then `fit predict FIT.json N=…`."
    "\n\nExample: `pathways-lite fit chinchilla runs.parquet --out fit.json`, then "
    "`pathways-lite fit predict fit.json N=7e9 D=1.4e11`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Columns = Annotated[
    list[str] | None, typer.Argument(help="columns of the law by those of the table: N='size_M*1e6' L=loss")
]
TablePath = Annotated[
    Path,
    typer.Argument(
        parser=local_path,
        help="CSV (also .gz), Parquet or JSON lines, e.g. the output of `runs table`; or a study (its file, or its "
        "directory), or a directory of runs: the last evaluation of every finished run",
    ),
]


@app.command("law")
def fit_law(
    law: Annotated[str, typer.Argument(help="a law's name; `fit laws` lists them")],
    table: TablePath,
    columns: Columns = None,
    out: Annotated[
        Path | None, typer.Option(parser=local_path, help="file of the fit; default: LAW.json beside the table")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="huber:DELTA, lad or squares; default: the paper's")] = None,
    link: Annotated[
        str | None, typer.Option(help="residuals of log, log1p or raw values; default: the paper's")
    ] = None,
    starts: Annotated[int, typer.Option(min=1, help="number of random starts, in centered logarithms")] = 20,
    seed: Annotated[int, typer.Option(help="random seed of starts and bootstraps")] = 0,
    bootstraps: Annotated[
        int | None,
        typer.Option(
            min=0, help="number of resamples for the intervals; 0: no intervals; default: 1000, fewer for many rows"
        ),
    ] = None,
    intervals: Annotated[
        str | None,
        typer.Option(help="bootstrap, profile or delta; default: bootstrap if there are ten rows per parameter"),
    ] = None,
    by: Annotated[str | None, typer.Option(help="resample whole runs, named by this column")] = None,
    bca: Annotated[bool, typer.Option("--bca", help="intervals corrected for bias and acceleration")] = False,
    drop_highest: Annotated[int, typer.Option(min=0, help="number of rows with the highest target to leave out")] = 0,
    report: Annotated[bool, typer.Option("--report", help="write an HTML report beside the fit")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit a law and write it as JSON, with everything needed to repeat the fit.

    Examples:

    - `pathways-lite fit chinchilla runs.csv N='Model Size' C='Training FLOP' L=loss --drop-highest 5 --report`

    - `pathways-lite fit chinchilla my_study.py` fits the finished runs of a study
    """
    from pathways_lite.cli.fit_display import LARGE_TABLE, quality_json, render_fit
    from pathways_lite.console import Console
    from pathways_lite.output_lock import lock_file
    from pathways_lite.scaling.bootstrap import default_count
    from pathways_lite.scaling.fit import fit_law as fit_table
    from pathways_lite.scaling.laws.registry import find_law
    from pathways_lite.scaling.losses import parse_link, parse_loss
    from pathways_lite.scaling.solver import no_progress
    from pathways_lite.scaling.uncertainty import parse_method

    name = f"{law.partition(':')[0]}.json"
    path = out or (_study_directory(table) / name if is_study_or_runs(table) else table.with_name(name))
    files = [path]
    with lock_file(path):
        chosen_law = find_law(law)
        rows, groups, origin = _read_rows(table, columns, chosen_law.target, by, drop_highest)
        number = len(next(iter(rows.values()), ()))
        fit = fit_table(
            chosen_law, rows,
            link=None if link is None else parse_link(link), loss=None if loss is None else parse_loss(loss),
            starts=starts, seed=seed, bootstraps=default_count(number) if bootstraps is None else bootstraps,
            method=None if intervals is None or bootstraps == 0 else parse_method(intervals),
            bca=bca, groups=groups, origin=origin, progress=count_progress if number > LARGE_TABLE else no_progress,
        )  # fmt: skip
        fit.save(path)
        if report:
            from pathways_lite.scaling.report import write_report

            files.append(write_report(fit, path.with_suffix(".html")))
    if as_json:
        parameters = {name: asdict(interval) for name, interval in fit.parameter_intervals().items()}
        facts = {"law": fit.law.name, "objective": fit.objective, "rows": fit.rows, "notes": list(fit.notes)}
        print_json({**facts, "parameters": parameters, "files": files, **quality_json(fit)})
        return
    Console().print(render_fit(fit))
    for file in files:
        typer.echo(file)


@app.command("laws")
def laws(as_json: AsJson = False) -> None:
    """List the laws with their formulas, columns and sources."""
    from pathways_lite.console import Console
    from pathways_lite.console import Table as Grid
    from pathways_lite.scaling.laws.registry import FAMILIES, LAWS

    listed = (*LAWS.values(), *(family(("A", "B")) for family in FAMILIES.values()))
    if as_json:
        fields = ("name", "formula", "inputs", "target", "source")
        print_json({"laws": [{name: getattr(law, name) for name in fields} for law in listed]})
        return
    grid = Grid("law", "formula", "columns", "source")
    for law in listed:
        grid.add_row(law.name, law.formula, ", ".join((*law.inputs, law.target)), law.source)
    Console().print(grid)


@app.command("predict")
def predict(
    fit: Annotated[Path, typer.Argument(parser=local_path, help="a fit's JSON file")],
    inputs: Annotated[list[str], typer.Argument(help="the law's inputs: N=1e9 D=2e10")],
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="level of the interval")] = 0.95,
    as_json: AsJson = False,
) -> None:
    """Predict the law's target at new inputs, with the intervals of the law, of a run there, and of a forecast.

    In brackets is where the law may be; `run` adds the noise of one run; `forecast` also adds what rehearsals missed,
    in which the fit's own largest rows were left out and predicted.

    Example: `pathways-lite fit predict chinchilla.json N=7e9 D=1.4e11`
    """
    from pathways_lite.cli.fit_display import rehearsal_warnings
    from pathways_lite.scaling.fit import Fit
    from pathways_lite.scaling.table import derive_columns
    from pathways_lite.scaling.uncertainty import KINDS

    loaded = Fit.load(fit)
    values = derive_columns(_parse_numbers(inputs), loaded.law.inputs)
    of_law, of_run, of_forecast = (loaded.predict(values, level, kind)[0] for kind in KINDS)
    sentences = [*loaded.extrapolation_warnings(values), *rehearsal_warnings(loaded, values)]
    if as_json:
        kinds = {"run": asdict(of_run), "forecast": asdict(of_forecast)}
        print_json({"target": loaded.law.target, **asdict(of_law), "level": level, "warnings": sentences, **kinds})
        return
    typer.echo(_format_interval(loaded.law.target, of_law))
    for kind, interval in (("run", of_run), ("forecast", of_forecast)):
        if interval.has_limits:
            typer.echo(f"{kind} {interval.low:.5g} to {interval.high:.5g}")
    for sentence in sentences:
        typer.echo(sentence, err=True)


@app.command("optimal")
def optimal(
    fit: Annotated[Path, typer.Argument(parser=local_path, help="a fit's JSON file")],
    inputs: Annotated[list[str], typer.Argument(help="the compute in FLOPs: C=1e24")],
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="level of the interval")] = 0.95,
    as_json: AsJson = False,
) -> None:
    """Compute the optimal parameters and tokens for a compute budget, with intervals.

    Example: `pathways-lite fit optimal chinchilla.json C=1e24`
    """
    from pathways_lite.errors import UserError
    from pathways_lite.scaling.fit import Fit

    values = _parse_numbers(inputs)
    if set(values) != {"C"}:
        raise UserError(f"give only the compute, as in C=1e24, not {' '.join(inputs)}")
    loaded = Fit.load(fit)
    intervals = loaded.optimal(float(values["C"][0]), level)
    sentences = loaded.extrapolation_warnings(values)
    if as_json:
        numbers = {name: asdict(interval) for name, interval in intervals.items()}
        print_json({**numbers, "level": level, "warnings": sentences})
        return
    for name, interval in intervals.items():
        typer.echo(_format_interval(name, interval))
    for sentence in sentences:
        typer.echo(sentence, err=True)


@app.command("compare")
def compare(
    table: TablePath,
    law: Annotated[list[str], typer.Option("--law", help="a law to compare; give the option at least twice")],
    columns: Columns = None,
    by: Annotated[str, typer.Option(help="hold out the rows with the largest values of this column")] = "C",
    count: Annotated[int, typer.Option(min=1, help="number of its largest values to hold out")] = 1,
    seed: Annotated[int, typer.Option(help="random seed of the starts")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit several laws without the largest runs, and compare how well they predict these runs.

    Example: `pathways-lite fit compare runs.csv --law chinchilla --law kaplan --by N`
    """
    from rich.table import Column

    from pathways_lite.console import Console
    from pathways_lite.console import Table as Grid
    from pathways_lite.scaling.compare import held_out_errors
    from pathways_lite.scaling.laws.registry import find_law

    chosen = [find_law(name) for name in law]
    rows, _, _ = _read_rows(table, columns, chosen[0].target, None, 0)
    results = held_out_errors(chosen, rows, by=by, count=count, seed=seed)
    if as_json:
        print_json({"by": by, "laws": [asdict(result) for result in results]})
        return
    law_column = Column("law", no_wrap=True)
    grid = Grid(law_column, "rows fitted", "held out", "mean error", "worst error", "error in the fit")
    for result in results:
        grid.add_row(
            result.law, str(result.fitted), str(result.held_out),
            f"{result.mean:.3%}", f"{result.worst:.3%}", f"{result.fit_mean:.3%}",
        )  # fmt: skip
    Console().print(grid)


@app.command("advise")
def advise(
    inputs: Annotated[list[str], typer.Argument(help="N=1e9 D=1e11: parameters without embeddings, and tokens")],
    seq_len: Annotated[int, typer.Option(min=1, help="sequence length, to show the batch in sequences too")] = 2048,
    as_json: AsJson = False,
) -> None:
    """Advise on learning rate and batch (Step Law), and on how long to train the base of a stacked model.

    Example: `pathways-lite fit advise N=1e9 D=1e11`
    """
    from pathways_lite.cli.common import echo_warnings
    from pathways_lite.errors import UserError
    from pathways_lite.methods.growth import guidelines
    from pathways_lite.scaling.laws.hyperparameters import (
        STEP_BATCH_VALUES,
        STEP_LEARNING_RATE_VALUES,
        step_law,
    )
    from pathways_lite.tracking.formatting import si

    values = _parse_numbers(inputs)
    if set(values) != {"N", "D"}:
        raise UserError("give parameters without embeddings and tokens, as in N=1e9 D=1e11")
    N, D = float(values["N"][0]), float(values["D"][0])
    advice = step_law(N, D)
    if as_json:
        with echo_warnings():
            growth = guidelines.advise(N, D)
        batch = {"tokens": advice["B"], "sequences": advice["B"] / seq_len}
        print_json({"learning_rate": advice["lr"], "batch": batch, "growth": {"base_tokens": growth.timing}})
        return
    lr_formula = "{} N^{} D^{}".format(*STEP_LEARNING_RATE_VALUES)
    batch_formula = "{} D^{}".format(*STEP_BATCH_VALUES)
    typer.echo(f"peak learning rate {advice['lr']:.4g} (Li et al. 2025: {lr_formula})")
    typer.echo(f"batch {si(advice['B'])} tokens, {advice['B'] / seq_len:.0f} sequences of {seq_len} ({batch_formula})")
    with echo_warnings():
        growth = guidelines.advise(N, D)
    clipped = f"; a fifth of D, the fit says {si(growth.fitted_timing)}" if growth.is_clipped else ""
    typer.echo(
        f"stacked from a quarter of its depth: {si(growth.timing)} tokens for the base (Du et al. 2024{clipped})"
    )
    if not (6e7 <= N <= 1e10 and 1e9 <= D <= 1e12):
        typer.echo(
            "Outside the range of the Step Law's runs (N from 6e7 to 1e10, D from 1e9 to 1e12): an extrapolation.",
            err=True,
        )


def _read_rows(path: Path, columns: list[str] | None, target: str, by: str | None, drop: int) -> Any:
    """Return the table's rows, the groups to resample, and a record of both."""
    import numpy as np

    from pathways_lite.errors import UserError
    from pathways_lite.scaling.table import numeric_column, read_table, rename_columns

    column_names = dict(_parse_pair(term) for term in columns or [])
    if is_study_or_runs(path):
        table = rename_columns(_finished_runs(path), column_names, str(path))
    else:
        table = read_table(path, column_names)
    if by is not None and by not in table:
        raise UserError(f"{path} has no column {by!r} that names runs; it has {', '.join(sorted(table))}")
    if drop:
        kept = np.sort(np.argsort(-numeric_column(table, target), kind="stable")[drop:])
        table = {name: column[kept] for name, column in table.items()}
    origin = {
        "table": path.name,
        "columns": column_names,
        "dropped": f"the {drop} highest {target}" if drop else "nothing",
    }
    return table, None if by is None else table[by], {**origin, "resampled": by or "rows"}


def is_study_or_runs(path: Path) -> bool:
    """Return whether runs are meant, not a table: a study's file, or a directory."""
    return path.suffix == ".py" or path.is_dir()


def _study_directory(path: Path) -> Path:
    """Return the directory with the runs that `path` means."""
    if path.is_dir():
        return path
    from pathways_lite.studies.study import load_study

    return Path("runs") / load_study(path).name


def _finished_runs(path: Path) -> RunsTable:
    """Return a row for every finished run of a study, given by its file or directory, or of a directory of runs."""
    from pathways_lite.scaling.runs_table import runs_table

    if path.is_dir():
        return runs_table([path], final=True)
    from pathways_lite.errors import UserError
    from pathways_lite.studies.plan import resolve_study, study_store
    from pathways_lite.studies.study import load_study

    store = study_store(resolve_study(load_study(path)), _study_directory(path))
    if not (runs := store.finished_runs()):
        raise UserError(
            f"no run of {path} is finished in {store.path}; train them with `pathways-lite study run {path}`"
        )
    return runs_table(runs, final=True)


def _parse_pair(term: str) -> tuple[str, str]:
    from pathways_lite.errors import UserError

    name, equals, value = term.partition("=")
    if not (name and equals and value):
        raise UserError(f"{term!r} is not NAME=VALUE; write e.g. N=1e9")
    return name, value


def _parse_numbers(terms: list[str]) -> Any:
    import numpy as np

    from pathways_lite.errors import UserError

    numbers = {}
    for name, value in map(_parse_pair, terms):
        try:
            numbers[name] = np.array([float(value)])
        except ValueError:
            raise UserError(f"{name}={value} is not a number; write e.g. {name}=1e9") from None
        if not np.isfinite(numbers[name][0]) or numbers[name][0] <= 0:
            raise UserError(f"{name}={value} is not positive; write e.g. {name}=1e9")
    return numbers


def _format_interval(name: str, interval: Interval) -> str:
    has_limits = interval.low == interval.low  # NaN without bootstraps
    limits = f"{interval.low:.5g} to {interval.high:.5g}" if has_limits else "no interval"
    return f"{name} {interval.value:.5g} ({limits})"
