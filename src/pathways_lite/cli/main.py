"""The command line `pathways-lite COMMAND`: one file per command; heavy imports happen inside the commands."""

from __future__ import annotations

import io
import sys
import threading
from typing import Annotated

import typer

from pathways_lite.accelerators import leave_out_missing_tpu
from pathways_lite.cli import (
    convert,
    data,
    data_reading,
    data_select,
    evaluate,
    fit,
    fit_arms,
    fit_crossover,
    fit_curves,
    fit_isoflop,
    fit_ladder,
    fit_mixture,
    fsck,
    generate,
    grow,
    inspect,
    judge,
    merge,
    plan,
    recipe,
    report,
    runs,
    runs_delete,
    runs_quantization,
    runs_table,
    sample,
    study,
    tasks,
    train,
)
from pathways_lite.cli.common import CommandLine, end_without_output, print_error
from pathways_lite.cli.version import show_version
from pathways_lite.errors import UserError, explain_system_error

app = typer.Typer(
    name="pathways-lite",
    cls=CommandLine,
    help="Pretrain transformers in JAX, and measure whether a training-efficiency method pays off.\n\n"
    "First time? `pathways-lite train demo` builds a corpus of the text that comes with Python and trains on it for "
    "three minutes; docs/first_run.md does the same with your own text. Every command has its own --help with "
    "examples.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="show versions and devices, and stop"),
    ] = False,
) -> None: ...


app.command("train")(train.train)
app.command("plan")(plan.plan)
app.add_typer(recipe.app, name="recipe")
app.add_typer(data.app, name="data")
data.app.add_typer(data_select.app, name="select")
data.app.command("apply")(data_select.apply)
data.app.command("batch")(data_reading.batch)
data.app.command("who-read")(data_reading.who_read)
app.command("evaluate")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("judge")(judge.judge)
app.add_typer(tasks.app, name="tasks")
app.command("sample")(sample.sample)
app.add_typer(runs.app, name="runs")
app.add_typer(study.app, name="study")
app.command("grow")(grow.grow)
app.command("merge")(merge.merge)
app.command("convert")(convert.convert)
app.command("inspect")(inspect.inspect)
app.command("fsck")(fsck.fsck)
app.command("report")(report.report)
app.add_typer(fit.app, name="fit")
fit.app.command("ladder")(fit_ladder.ladder)
fit.app.command("isoflop")(fit_isoflop.isoflop)
fit.app.command("arms")(fit_arms.arms)
fit.app.command("curves")(fit_curves.curves)
fit.app.command("crossover")(fit_crossover.crossover)
fit.app.command("mixture")(fit_mixture.mixture)
runs.app.command("table")(runs_table.table)
runs.app.command("quantization")(runs_quantization.quantization)
runs.app.command("delete")(runs_delete.delete)
runs.app.command("prune")(runs_delete.prune)


def main() -> None:
    """Run the command line; a user's mistake prints one message on stderr and sets the exit status, no traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where the terminal's encoding lacks a character
    threading.excepthook = _explain_error_of_thread
    leave_out_missing_tpu()
    status = _run()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        status = end_without_output(error)
    sys.exit(status)


def _run() -> int:
    """Run the command and return its exit status."""
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except UserError as error:
        print_error(error)
        return error.status
    return 0


def _explain_error_of_thread(error: threading.ExceptHookArgs) -> None:
    """Print a sentence where the operating system refused something in a thread, e.g. to write events: work goes on."""
    explained = None if error.exc_value is None else explain_system_error(error.exc_value)
    if explained is None:
        threading.__excepthook__(error)
    else:
        print_error(explained)
