"""`pathways-lite fit`: fit scaling laws to tables of runs, and predict from them."""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathways_lite.cli.argument_order import require_order
from pathways_lite.cli.common import AsJson, count_progress, group_with_default, print_json
from pathways_lite.cli.fit_table import (
    Columns,
    DecimalMark,
    DropMissing,
    RowChoice,
    Sheet,
    TablePath,
    Where,
    output_path,
    read_rows,
    single_numbers,
)
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.intervals import Interval

# `fit chinchilla runs.csv` means `fit law chinchilla runs.csv`.
app = typer.Typer(
    cls=group_with_default("law", bare=False),
    help="Fit scaling laws to tables of runs, and predict from them: `fit LAW TABLE`, then `fit predict FIT.json N=…`."
    "\n\nA table has a row per run; a study and a directory of runs are tables too. `fit laws` lists the laws: "
    "`compute` and `tokens` need three runs, `chinchilla` five, of several sizes and numbers of tokens."
    "\n\nExample: `pathways-lite fit chinchilla runs.parquet --out fit.json`, then "
    "`pathways-lite fit predict fit.json N=7e9 D=1.4e11`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


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
    where: Where = None,
    drop_missing: DropMissing = False,
    decimal: DecimalMark = None,
    sheet: Sheet = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            help="a column of your own with a power law beside those of N and D, e.g. width (chinchilla only)"
        ),
    ] = None,
    each: Annotated[str | None, typer.Option(help="fit every value of this column apart, e.g. dataset")] = None,
    report: Annotated[bool, typer.Option("--report", help="write an HTML report beside the fit")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit a law and write it as JSON, with everything needed to repeat the fit.

    Examples:

    - `pathways-lite fit chinchilla runs.csv N='Model Size' C='Training FLOP' L=loss --drop-highest 5 --report`

    - `pathways-lite fit chinchilla my_study.py` fits the finished runs of a study

    - `pathways-lite fit chinchilla wandb.csv N=params D=tokens L=eval/loss --drop-missing --where 'State ==
    "finished"'`
    """
    from pathways_lite.cli.fit_groups import fit_each
    from pathways_lite.console import Console
    from pathways_lite.errors import UserError
    from pathways_lite.output_lock import lock_file
    from pathways_lite.scaling.bootstrap import default_count
    from pathways_lite.scaling.fit import fit_law as fit_table
    from pathways_lite.scaling.laws.chinchilla import with_features
    from pathways_lite.scaling.laws.registry import LAWS, find_law
    from pathways_lite.scaling.losses import parse_link, parse_loss
    from pathways_lite.scaling.pooling import pooling_notes, settings_of_rows
    from pathways_lite.scaling.quality import ARM_OF_ROW
    from pathways_lite.scaling.uncertainty import parse_method

    progress = functools.partial(count_progress, since=time.monotonic())
    require_order(law, table, "a law", lambda name: str(name) in LAWS)
    chosen_law = with_features(find_law(law), feature or ())
    if "falls" in chosen_law.inputs:
        raise UserError(
            f"{chosen_law.name} reads whole schedules; fit it to curves, as in `pathways-lite fit curves CURVE.csv "
            f"CURVE.csv --law {chosen_law.name}`"
        )
    path = out or output_path(table, f"{chosen_law.name.partition(':')[0]}.json")
    choice = RowChoice(where or (), drop_missing, decimal, drop_highest, sheet)
    method = None if intervals is None or bootstraps == 0 else parse_method(intervals)
    settings: dict[str, Any] = {"starts": starts, "seed": seed, "bca": bca, "method": method}
    settings |= {"link": None if link is None else parse_link(link), "loss": None if loss is None else parse_loss(loss)}
    needed = (*chosen_law.inputs, chosen_law.target)
    if each is not None:
        rows = read_rows(table, columns, needed, by=by, choice=choice, target=chosen_law.target, apart=each)
        fit_each(chosen_law, rows, each, path, settings, bootstraps, as_json=as_json)
        return
    files = [path]
    with lock_file(path):
        rows = read_rows(table, columns, needed, by=by, choice=choice, target=chosen_law.target)
        number = len(next(iter(rows.table.values()), ()))
        fit = fit_table(
            chosen_law, rows.table, groups=rows.groups, origin=rows.origin, progress=progress,
            bootstraps=default_count(number) if bootstraps is None else bootstraps, **settings,
        )  # fmt: skip
        if apart := settings_of_rows(rows.table, chosen_law.inputs):  # whose differences are no noise
            fit = replace(fit, origin={**fit.origin, ARM_OF_ROW: apart})
        fit = replace(fit, notes=(*rows.left_out, *fit.notes, *pooling_notes(fit, rows.table)))
        fit.save(path)
        if report:
            from pathways_lite.scaling.report import write_report

            files.append(write_report(fit, path.with_suffix(".html")))
    from pathways_lite.cli.fit_display import quality_json, render_fit

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
    """List the laws with their formulas, columns and sources.

    Example: `pathways-lite fit laws --json`
    """
    from pathways_lite.console import Console
    from pathways_lite.console import Table as Grid
    from pathways_lite.scaling.laws.registry import LAWS, family_examples

    listed = (*LAWS.values(), *family_examples())
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
    through: Annotated[
        Path | None,
        typer.Option(
            parser=local_path, help="a fit of the loss L that this law reads: two steps, from N and D to a task"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the law's target at new inputs, with the intervals of the law, of a run there, and of a forecast.

    In brackets is where the law may be; `run` adds the noise of one run; `forecast` also adds what rehearsals missed,
    in which the fit's own largest rows were left out and predicted.

    Examples:

    - `pathways-lite fit predict chinchilla.json N=7e9 D=1.4e11`

    - `pathways-lite fit predict chinchilla.json N=1B,7B D=20B,140B`

    - `pathways-lite fit predict task-accuracy.json --through task_loss.json N=7B D=4T`
    """
    from pathways_lite.cli.fit_predict import predict_kinds, prediction_inputs, print_predictions
    from pathways_lite.scaling.fit import Fit
    from pathways_lite.scaling.two_steps import TwoSteps

    loaded = Fit.load(fit) if through is None else TwoSteps(Fit.load(through), Fit.load(fit))
    values = prediction_inputs(loaded.law, inputs)
    print_predictions(loaded, values, predict_kinds(loaded, values, level), level, as_json=as_json)


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

    values = single_numbers(inputs)
    if set(values) != {"C"}:
        raise UserError(f"give only the compute, as in C=1e24, not {' '.join(inputs)}")
    loaded = Fit.load(fit)
    intervals = loaded.optimal(values["C"], level)
    sentences = loaded.extrapolation_warnings(values)
    if as_json:
        numbers = {name: asdict(interval) for name, interval in intervals.items()}
        print_json({**numbers, "level": level, "warnings": sentences})
        return
    for name, interval in intervals.items():
        typer.echo(format_interval(name, interval))
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
    where: Where = None,
    drop_missing: DropMissing = False,
    decimal: DecimalMark = None,
    sheet: Sheet = None,
    as_json: AsJson = False,
) -> None:
    """Fit several laws without the largest runs, and compare how well they predict these runs.

    Laws of one input over x and y (power, power-floor, broken) take the columns of the others.

    Examples:

    - `pathways-lite fit compare runs.csv --law chinchilla --law kaplan --by N`

    - `pathways-lite fit compare sft.csv --law rectified --law power-floor --by D_examples --count 3`
    """
    from rich.table import Column

    from pathways_lite.console import Console
    from pathways_lite.console import Table as Grid
    from pathways_lite.scaling.compare import held_out_errors, with_shared_names
    from pathways_lite.scaling.laws.registry import find_law

    chosen = [find_law(name) for name in law]
    needed = tuple(dict.fromkeys(name for one in chosen for name in (*one.inputs, one.target)))
    rows = read_rows(table, columns, needed, choice=RowChoice(where or (), drop_missing, decimal, sheet=sheet))
    for sentence in rows.left_out:
        typer.echo(sentence, err=True)
    results = held_out_errors(chosen, with_shared_names(chosen, rows.table), by=by, count=count, seed=seed)
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

    values = single_numbers(inputs)
    if set(values) != {"N", "D"}:
        raise UserError("give parameters without embeddings and tokens, as in N=1e9 D=1e11")
    N, D = values["N"], values["D"]
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


def format_interval(name: str, interval: Interval) -> str:
    return f"{name} {interval.texts()[0]} ({format_limits(interval)})"


def format_limits(interval: Interval) -> str:
    _, low, high = interval.texts()
    return f"{low} to {high}" if interval.has_limits else "no interval"
