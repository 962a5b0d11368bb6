"""Print for people: consoles that show text as it is, and tables that are never cut.

Text comes from users and from data: names of domains, documents, samples of models, commands of other people. It is
never read as markup (`[red]`, `<mask>`, `:smile:`), and its control characters are shown as escapes, so that it can
neither move the cursor nor change the terminal's title. `escape_controls` does that for terminals, pages and pictures.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

_WITHOUT_A_TERMINAL = 100_000  # columns: what is printed to a file or a pipe has no width

# Control characters except tab and newline (and a carriage return before it), marks that reverse the direction of
# text, and code points that UTF-8 and XML do not have.
_CONTROLS = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_NUMBER = re.compile(r"[-+~<>≥≤]?[0-9][0-9.,]*(e[-+]?[0-9]+)?.*", re.IGNORECASE)
_SHORTEST_FOLD = 12  # columns: text that does not fit is folded into lines of at least this many


def escape_controls(text: str, *, one_line: bool = False) -> str:
    r"""Replace control characters by escapes, as in `\x1b[2J`; in text of `one_line` also line breaks and tabs."""
    text = _CONTROLS.sub(_escape, text)
    return re.sub(r"[\n\r\t\u2028\u2029]", _escape, text) if one_line else text


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def bold(text: str) -> Text:
    """Return text in bold print."""
    return Text(text, style="bold")


def dim(text: str) -> Text:
    """Return text in faint print."""
    return Text(text, style="dim")


class Console(RichConsole):
    """A rich console without markup, highlighting and control characters; as wide as its content without a terminal."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, **{"markup": False, "emoji": False, "highlight": False, **options})
        if not self.is_terminal and "width" not in options:
            self.width = _WITHOUT_A_TERMINAL

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string as plain text; called for every string, those in tables included."""
        return super().render_str(escape_controls(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything, with the control characters of its text escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escape_controls(segment.text))

    def on_broken_pipe(self) -> None:
        """Let the command end where its results have no reader; messages without a reader are dropped."""
        if not self.stderr:
            raise BrokenPipeError
        drop_messages()


def drop_messages() -> None:
    """Send what is printed on standard error from now on nowhere: its reader has ended, the work has not."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def print_line(line: str, file: TextIO | None = None) -> None:
    """Print a line on standard error (or `file`), for people and logs; without a reader it is dropped."""
    try:
        print(escape_controls(line), file=file or sys.stderr, flush=True)
    except BrokenPipeError:
        drop_messages()


class Table(RichTable):
    """A table that is never cut: on a narrow terminal text is folded, then each row is shown as lines of `name value`.

    Columns of numbers are aligned right and never broken.
    """

    def __init__(self, *headers: str | Column, **options: Any) -> None:
        super().__init__(*headers, **{"title_justify": "left", **options})

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        if not self.columns:
            return
        for column in self.columns:
            column.overflow = "fold"
            column.no_wrap = column.no_wrap or self._has_numbers(column)
        widths = [self._narrowest(console, options, column) for column in self.columns]
        _, right, _, left = self.padding
        lines = len(self.columns) - 1 + 2 * self.show_edge if self.box else 0
        if sum(widths) + (left + right) * len(widths) + lines <= options.max_width:
            yield from super().__rich_console__(console, options)
        else:
            yield from self._as_lines()

    def _has_numbers(self, column: Column) -> bool:
        """Return True if all filled cells are numbers, or aligned right: it is then neither folded nor wrapped."""
        cells = [_plain(cell) for cell in column.cells]
        filled = [cell for cell in cells if cell not in ("", "-", "–")]
        return column.justify == "right" or (bool(filled) and all(_NUMBER.fullmatch(cell) for cell in filled))

    def _narrowest(self, console: RichConsole, options: ConsoleOptions, column: Column) -> int:
        """Return the width below which a column would be cut or hard to read."""
        cells: list[RenderableType] = [column.header, *column.cells]
        wide = options.update(max_width=_WITHOUT_A_TERMINAL)
        sizes = [Measurement.get(console, wide, cell) for cell in cells]
        if column.no_wrap:
            return max(size.maximum for size in sizes)
        longest_word = max(size.minimum for size in sizes)
        return min(longest_word, _SHORTEST_FOLD)

    def _as_lines(self) -> RenderResult:
        if self.title:
            yield Text(_plain(self.title), style="bold", overflow="fold")
        names = [_plain(column.header) for column in self.columns]
        margin = max(map(cell_len, names)) + 1
        for row in zip(*(column.cells for column in self.columns), strict=True):
            for name, cell in zip(names, row, strict=True):
                yield Text.assemble((name.ljust(margin), "dim"), _plain(cell), overflow="fold")
            yield Text()
        if self.caption:
            yield Text(_plain(self.caption), overflow="fold")


def _plain(cell: RenderableType) -> str:
    return escape_controls(cell.plain if isinstance(cell, Text) else str(cell))
