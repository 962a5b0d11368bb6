"""The command line `pathways-lite COMMAND`: one file per command; heavy imports happen inside the commands."""

from __future__ import annotations

import sys

import typer

from pathways_lite.cli import (
    convert,
    data,
    data_select,
    evaluate,
    fit,
    fit_ladder,
    fsck,
    generate,
    grow,
    inspect,
    merge,
    plan,
    report,
    runs,
    runs_table,
    study,
    train,
)
from pathways_lite.cli.common import print_error
from pathways_lite.errors import UserError

app = typer.Typer(
    name="pathways-lite",
    help="Pretrain transformers in JAX, and measure whether a training-efficiency method pays off.\n\n"
    "First time? `pathways-lite data build corpora/python python:` builds a corpus of the text that comes with "
    "Python, and `pathways-lite train configs/demo.py` trains on it. Every command has its own --help with examples.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("plan")(plan.plan)
app.add_typer(data.app, name="data")
data.app.add_typer(data_select.app, name="select")
data.app.command("apply")(data_select.apply)
app.command("evaluate")(evaluate.evaluate)
app.command("generate")(generate.generate)
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
runs.app.command("table")(runs_table.table)


def main() -> None:
    """Run the command line; a user's mistake prints one message on stderr and sets the exit status, no traceback."""
    try:
        app()
    except UserError as error:
        print_error(error)
        sys.exit(error.status)
    except BrokenPipeError:  # `pathways-lite runs | head`
        sys.stderr.close()
        sys.exit(0)
