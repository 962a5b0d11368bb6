"""How far a command is that goes through many things."""

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


@contextmanager
def count_progress(doing: str, total: int, things: str) -> Iterator[Callable[[int], None]]:
    """Call it with how many more are done: a bar on a terminal, plain lines on standard error where there is none."""
    began = last = time.monotonic()
    done = 0
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(doing, total=total)
            yield lambda more: bar.advance(task, more)
        return

    def advance(more: int) -> None:
        nonlocal done, last
        done, now = done + more, time.monotonic()
        if now - last > _SECONDS_BETWEEN_LINES:
            last = now
            print(
                f"{doing}: {done:,} of {total:,} {things}, {done / (now - began):,.0f}/s", file=sys.stderr, flush=True
            )

    yield advance


# How a user's mistake is shown.


def show(error: UserError) -> None:
    """One message on standard error, without markup or wrapping."""
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)


# Groups of verbs of which one need not be named.


def group_with_default(verb: str, *, bare: bool) -> type[TyperGroup]:
    """A group in which arguments that begin with no verb are `verb`'s; `bare` if also no arguments at all are."""

    class Group(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            named = args and args[0] in (*self.commands, *ctx.help_option_names)
            if not named and (args or bare):
                args = [verb, *args]
            return super().parse_args(ctx, args)

    return Group


@contextmanager
def echo_warnings() -> Iterator[None]:
    """Print warnings raised inside as lines on the standard error, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for line in dict.fromkeys(str(warning.message) for warning in caught):
        typer.echo(f"beware: {line}", err=True)
