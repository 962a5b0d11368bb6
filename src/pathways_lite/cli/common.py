"""Shared parts of the commands: error messages, warnings, progress, and groups with a default command."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from pathways_lite.errors import UserError

_SECONDS_BETWEEN_LINES = 5.0


def print_error(error: UserError) -> None:
    """Print an error message on standard error, without markup or wrapping."""
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)


@contextmanager
def echo_warnings() -> Iterator[None]:
    """Print the warnings raised inside the context as lines on standard error, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for line in dict.fromkeys(str(warning.message) for warning in caught):
        typer.echo(f"warning: {line}", err=True)


@contextmanager
def count_progress(activity: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error: a bar on a terminal, otherwise a line every few seconds.

    Yields a function to call with the number of newly completed items.
    """
    if sys.stderr.isatty():
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(activity, total=total)
            yield lambda count: bar.advance(task, count)
        return

    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done, now = done + count, time.monotonic()
        if now - last > _SECONDS_BETWEEN_LINES:
            last = now
            line = f"{activity}: {done:,} of {total:,} {unit}, {done / (now - start):,.0f}/s"
            print(line, file=sys.stderr, flush=True)

    yield advance


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
