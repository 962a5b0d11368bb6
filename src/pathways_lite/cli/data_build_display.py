"""Progress of `data build`: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from pathways_lite.console import Console, print_line
from pathways_lite.data.build import Progress, Report
from pathways_lite.data.preflight import require_apart, require_documents, require_domains
from pathways_lite.data.preview import Preview, preview
from pathways_lite.data.shards import HeldOutShares
from pathways_lite.data.sources import Source
from pathways_lite.data.zarr_io import is_remote
from pathways_lite.paths import local_path
from pathways_lite.tracking.formatting import si

_PHASE_NAMES = {
    "sample": "reading a sample",
    "train tokenizer": "training the tokenizer",
    "tokenise": "tokenizing",
    "write": "writing the store",
}
_SECONDS_BETWEEN_LINES = 5.0
_MIN_SECONDS = 0.5  # of tokenizing, before a speed means something


def preview_sources(sources: Sequence[Source], out: str) -> list[Preview]:
    """Return what each source of the store `out` is taken for; those without files are not recognized by content."""
    outputs = [] if is_remote(out) else [local_path(out)]
    return [preview(source.without(outputs)) for source in sources if source.has_files]


def print_previews(console: Console, sources: Sequence[Source], out: str) -> None:
    """Print what each source of the store `out` is taken for."""
    for item in preview_sources(sources, out):
        console.print(Text(str(item)), soft_wrap=True)


def check_sources(training: Sequence[Source], held_out: HeldOutShares | Sequence[Source], out: str) -> None:
    """Raise UserError for what a build of these sources would refuse before it tokenizes anything."""
    outputs = [] if is_remote(out) else [local_path(out)]
    shares = held_out if isinstance(held_out, HeldOutShares) else HeldOutShares(0.0)
    texts = [source.without(outputs) for source in training]
    others = [] if isinstance(held_out, HeldOutShares) else [source.without(outputs) for source in held_out]
    require_apart(texts, others)
    require_documents([*texts, *others])
    require_domains([*texts, *others], shares.by_domain)


@contextmanager
def show_progress(file: TextIO | None = None) -> Iterator[Report]:
    """Yield a `report` for `build` that shows phase, speed and time left on `file` (default: standard error)."""
    file = file or sys.stderr
    speed = _Speed()
    if not file.isatty():
        yield _LineReporter(file, speed).report
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bars(*columns, TextColumn("{task.fields[detail]}"), console=Console(file=file), transient=True) as bars:
        task = bars.add_task("starting", total=None, detail="")

        def report(progress: Progress) -> None:
            # No percentage before the first part is done: 0 % for a minute looks as if nothing happened.
            is_known = progress.phase == "tokenise" and progress.done.documents > 0
            total = progress.input_bytes if is_known else None
            done = min(progress.done.input_bytes, progress.input_bytes)
            detail = _detail(progress, speed)
            bars.update(task, description=_PHASE_NAMES[progress.phase], total=total, completed=done, detail=detail)

        yield report


class _Speed:
    """Text bytes per second since the first report of tokenizing, without the work of an earlier run."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def bytes_per_second(self, progress: Progress) -> float | None:
        """Return the average speed up to this report; None as long as there is nothing to measure."""
        now, done = time.monotonic(), progress.done.text_bytes
        if self._start is None:
            self._start = now, done
        seconds = now - self._start[0]
        n_bytes = done - self._start[1]
        return n_bytes / seconds if n_bytes and seconds >= _MIN_SECONDS else None


def _detail(progress: Progress, speed: _Speed) -> str:
    """Return what a report shows after the phase: speed and counts."""
    done = progress.done
    if progress.phase != "tokenise":
        return f"{done.tokens:,} tokens" if done.tokens else ""
    if not done.documents:
        return f"{si(progress.input_bytes, 'B')} of input"
    skipped = f", {done.skipped:,} skipped" if done.skipped else ""
    rate = speed.bytes_per_second(progress)
    shown = f"{si(rate, 'B/s')}, " if rate is not None else ""
    return f"{shown}{done.documents:,} documents, {done.tokens:,} tokens{skipped}"


class _LineReporter:
    """Prints a line per phase, and one every few seconds in between."""

    def __init__(self, file: TextIO, speed: _Speed) -> None:
        self._file, self._speed = file, speed
        self._phase, self._last = "", 0.0

    def report(self, progress: Progress) -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        if progress.phase == self._phase and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._phase, self._last = progress.phase, now
        percentage = f" {progress.done.input_bytes / max(1, progress.input_bytes):.0%}" if progress.done.tokens else ""
        detail = _detail(progress, self._speed)
        print_line(f"{_PHASE_NAMES[progress.phase]}{percentage}{': ' if detail else ''}{detail}", self._file)
