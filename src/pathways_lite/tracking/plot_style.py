"""The style of every figure: drawn without a display, readable without color, light and dark."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pathways_lite.atomic_file import replace_atomically
from pathways_lite.console import escape_controls

Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class Palette:
    """Colors of a theme; the color-blind can distinguish `series` too (after Okabe and Ito 2008)."""

    ink: str
    faint: str
    grid: str
    series: tuple[str, ...]


PALETTES: dict[Theme, Palette] = {
    "light": Palette("#1d2433", "#6b7280", "#e3e6ea", ("#0060a8", "#c04a00", "#007a58", "#a0357b", "#7a6a00")),
    "dark": Palette("#e8eaee", "#9aa3b0", "#333a45", ("#6cb8ff", "#ff9a52", "#3fcf9f", "#f08cc9", "#e0cf4a")),
}
_LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v")


def line_style(i: int, palette: Palette) -> dict[str, Any]:
    """Return the color, line style and marker of the `i`-th of several lines.

    Each of the three distinguishes five lines; together they distinguish twenty-five.
    """
    cycled = lambda choices, at: choices[at % len(choices)]  # noqa: E731
    cycle = i // len(palette.series)  # how often all colors have been used
    return {
        "color": cycled(palette.series, i),
        "linestyle": cycled(_LINE_STYLES, i + cycle),
        "marker": cycled(_MARKERS, i + 2 * cycle),
    }


def annotate(
    ax: Axes, text: str, xy: tuple[float, float], coordinates: tuple[str, str], offset: tuple[int, int], **style: Any
) -> None:
    """Write `text` at `xy`, shifted by `offset` in points."""
    ax.annotate(
        text, xy, xycoords=coordinates, xytext=offset, textcoords="offset points", fontsize=8.5, **style
    )  # fmt: skip


@contextmanager
def style(theme: Theme) -> Iterator[Palette]:
    """Give figures made within the context the style of the theme; yields its palette."""
    palette = PALETTES[theme]
    settings: Any = {
        "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "axes.axisbelow": True, "axes.edgecolor": palette.faint, "axes.labelcolor": palette.ink,
        "axes.facecolor": "none", "grid.color": palette.grid, "grid.linewidth": 0.7, "text.color": palette.ink,
        "xtick.color": palette.faint, "ytick.color": palette.faint, "xtick.labelcolor": palette.ink,
        "ytick.labelcolor": palette.ink, "legend.frameon": False, "legend.fontsize": 9, "hatch.linewidth": 0.6,
        "svg.hashsalt": "pathways-lite",  # the same run gives the same file
    }  # fmt: skip
    with mpl.rc_context(settings):
        yield palette


def label_text(name: str) -> str:
    """Return a name from data for use in a figure: without control characters, formulas and hidden entries."""
    text = escape_controls(name, one_line=True).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # matplotlib leaves such labels out of legends


def to_svg(figure: Figure) -> str:
    """Render the figure as SVG text with a transparent background. Call it within `style`."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = escape_controls(file.getvalue())
    return text[text.index("<svg") :]


def save_figure(figure: Figure, path: Path, *, dpi: int = 160) -> None:
    """Write the figure atomically, in the format that the suffix of `path` names. Raises OSError."""
    suffix = path.suffix.removeprefix(".").lower()
    content = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
    figure.savefig(content, format=suffix, dpi=dpi, facecolor="white", metadata=metadata)
    written = content.getvalue()
    if suffix == "svg":  # a control character would make it ill-formed
        written = escape_controls(written.decode()).encode()
    with replace_atomically(path, shared=True) as temporary:
        temporary.write_bytes(written)
