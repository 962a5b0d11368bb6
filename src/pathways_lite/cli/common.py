"""Shared parts of the commands: how they end, warnings, JSON, progress, and groups with a default command."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from pathways_lite.cli.argument_order import given_words, remember_words
from pathways_lite.cli.interrupt import end_interrupted, is_interrupted
from pathways_lite.cli.usage_errors import explain_usage, explain_value
from pathways_lite.console import Console, print_line
from pathways_lite.errors import MISTAKE, UserError, explain_system_error

_SECONDS_BETWEEN_LINES = 5.0


# ---- how a command ends ----

AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object instead of text")]
"""The option of every command that prints results."""

OfAverage = Annotated[
    bool, typer.Option("--average", help="use the moving average of the parameters (see ema in the recipe)")
]
"""The option of commands that use a trained model."""

BROKEN_PIPE = 128 + signal.SIGPIPE


class CommandLine(TyperGroup):
    """The group of all commands: turns what stops a command from outside into one sentence and an exit status.

    Typer would end with status 1 for a closed pipe, and with "Aborted." for a file that ends early.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words before the command's name, and remember all."""
        remember_words(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if (explained := explain_usage(error, args)) is not None:
                raise explained from error
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises UserError for what the parser, the operating system or a storage refuses."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            end_interrupted()
        except typer.BadParameter as error:
            if (sentence := explain_usage(error, given_words())) is not None:
                raise sentence from error
            error.message = explain_value(error.message)
            raise
        except BrokenPipeError as error:
            raise SystemExit(end_without_output(error)) from error
        except Exception as error:
            if is_interrupted():
                end_interrupted()
            if (sentence := explain_usage(error, given_words())) is not None:
                raise sentence from error
            if isinstance(error, EOFError):
                raise RuntimeError("a file ends early") from error
            if (explained := explain_system_error(error)) not in (None, error):
                raise explained from error
            raise


def end_without_output(error: OSError) -> int:
    """Give up standard output, which cannot be written, and return the exit status.

    A reader that has ended (`pathways-lite runs | head`) is no error to talk about: the status is a pipe's, as of other
    programs. A full disk is told.
    """
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    print_error(UserError(f"standard output cannot be written: {error.strerror}"))
    return MISTAKE


def print_error(error: UserError) -> None:
    """Print an error message on standard error, without markup or wrapping."""
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)


def print_json(values: Any) -> None:
    """Print one line of standard JSON; NaN and infinities become strings, as in the logs."""
    from pathways_lite.json_values import to_json_types

    typer.echo(json.dumps(to_json_types(values), allow_nan=False, default=str))


@contextmanager
def echo_warnings() -> Iterator[None]:
    """Print the warnings raised inside the context as lines on standard error, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for line in dict.fromkeys(str(warning.message) for warning in caught):
        print_line(f"warning: {line}")


@contextmanager
def count_progress(
    activity: str, total: int, unit: str, *, since: float | None = None
) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error: a bar on a terminal, otherwise a line every few seconds; with the time left.

    `since`: when the whole work has begun, by `time.monotonic()`, if this is a part of it: where that is some seconds
    ago, a line says what begins now. Yields a function to call with the number of newly completed items.
    """
    if sys.stderr.isatty():
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(activity, total=total)
            yield lambda count: bar.advance(task, count)
        return

    start = last = time.monotonic()
    done, shown = 0, -1
    first: tuple[float, int] | None = None  # after which nothing is compiled any more
    if since is not None and start - since > _SECONDS_BETWEEN_LINES:
        print_line(f"{activity}: {total:,} {unit}")

    def advance(count: int) -> None:
        nonlocal done, shown, last, first
        done, now = done + count, time.monotonic()
        if first is None and count:
            first = now, done
        if now - last > _SECONDS_BETWEEN_LINES and done != shown:  # the same line again would tell nothing
            last, shown = now, done
            print_line(f"{activity}: {done:,} of {total:,} {unit}{_time_left(first, (now, done), total)}")

    yield advance


def _time_left(first: tuple[float, int] | None, last: tuple[float, int], total: int) -> str:
    """Return `, about 3 min 05 s left` by two times at which some items were done; "" where they do not tell."""
    from pathways_lite.tracking.formatting import duration

    (now, done), (begin, before) = last, first or last
    if not (done > before and now - begin > 1 and done < total):
        return ""
    return f", about {duration((now - begin) / (done - before) * (total - done))} left"


def group_with_default(command: str, *, bare: bool) -> type[TyperGroup]:
    """Return a group that passes arguments to `command` if they start with no command's name.

    With `bare`, a call without arguments runs `command` too.
    """

    class Group(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            is_named = args and args[0] in (*self.commands, *ctx.help_option_names)
            if not is_named and (args or bare):
                args = [command, *args]
            return super().parse_args(ctx, args)

    return Group
