"""How far a command is that goes through many things."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def counted(doing: str, total: int, things: str) -> Iterator[Callable[[int], None]]:
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
