"""Pictures of a run: its loss curves and its speed. Drawn without a display, readable without colour."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from pathways_lite.tracking.log import Row
from pathways_lite.tracking.run_data import RunData

Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class _Palette:
    """Colours of a theme; `series` are apart from each other for the colour-blind too (after Okabe and Ito 2008)."""

    ink: str
    faint: str
    grid: str
    series: tuple[str, ...]


_PALETTES: dict[Theme, _Palette] = {
    "light": _Palette("#1d2433", "#6b7280", "#e3e6ea", ("#0060a8", "#c04a00", "#007a58", "#a0357b", "#7a6a00")),
    "dark": _Palette("#e8eaee", "#9aa3b0", "#333a45", ("#6cb8ff", "#ff9a52", "#3fcf9f", "#f08cc9", "#e0cf4a")),
}
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v")

# More points than a screen has columns only make the file large.
_MAX_POINTS = 1500


def save_curves(run: RunData, *paths: str | Path) -> None:
    """Write the loss curves as PNG or SVG, by the ending of each path."""
    with _style("light") as palette:
        figure = _curves(run, palette)
        for path in paths:
            figure.savefig(path, dpi=160, facecolor="white")


def curves_svg(run: RunData, theme: Theme) -> str:
    """The loss curves as SVG text with a transparent background."""
    with _style(theme) as palette:
        return _svg(_curves(run, palette))


def speed_svg(run: RunData, theme: Theme) -> str | None:
    """Tokens per second against running time as SVG text; None where there are no timings."""
    if not any(row["kind"] == "train" for stage in run.stages for row in stage.timings):
        return None
    with _style(theme) as palette:
        return _svg(_speed(run, palette))


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of up to `window` (odd) values around each one; fewer, but as many on both sides, near the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    index = np.arange(len(values))
    half = np.minimum(window // 2, np.minimum(index, len(values) - 1 - index))
    return (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)


# ---- loss, held-out bits per byte, learning rate ----


@dataclass(frozen=True)
class _Piece:
    """The rows of one stage, with `tokens` and `flops` counted over the chain. Lines are not drawn across stages."""

    name: str
    start: int  # tokens in the stages before
    train: list[Row]
    evals: list[Row]
    events: list[Row]


def _pieces(run: RunData) -> list[_Piece]:
    pieces = []
    tokens, flops = 0, 0
    for stage in run.stages:
        if stage.begun:
            shifted = {
                kind: [row | {"tokens": row["tokens"] + tokens, "flops": row["flops"] + flops} for row in rows]
                for kind, rows in (("train", stage.of_kind("train")), ("eval", stage.of_kind("eval")))
            }
            pieces.append(_Piece(stage.name, tokens, shifted["train"], shifted["eval"], stage.of_kind("event")))
        tokens, flops = tokens + stage.last.get("tokens", 0), flops + stage.last.get("flops", 0)
    return pieces


def _curves(run: RunData, palette: _Palette) -> Figure:
    pieces = _pieces(run)
    panels: list[tuple[float, Callable[[Axes], None]]] = [(3.0, lambda ax: _draw_loss(ax, pieces, palette))]
    if any(piece.evals for piece in pieces):
        baselines = run.latest("compressors") or {}
        panels.append((2.6, lambda ax: _draw_held_out(ax, pieces, baselines, palette)))
    if any("learning_rate" in row for piece in pieces for row in piece.train):
        panels.append((1.1, lambda ax: _draw_learning_rate(ax, pieces, palette)))
    heights = [height for height, _ in panels]
    figure = Figure(figsize=(7.2, sum(heights) + 0.9), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (_, draw) in zip(axes, panels, strict=True):
        draw(ax)
        for piece in pieces[1:]:
            ax.axvline(piece.start, color=palette.faint, linewidth=0.8, linestyle=(0, (2, 3)))
    for piece in pieces if len(pieces) > 1 else []:
        _label(axes[0], piece.name, (piece.start, 1), ("data", "axes fraction"), (4, -4), va="top", color=palette.faint)
    axes[-1].set_xlabel("training tokens")
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes[-1].set_xlim(left=0)
    _flops_axis(axes[0], [row for piece in pieces for row in piece.train])
    figure.align_ylabels()
    return figure


def _draw_loss(ax: Axes, pieces: Sequence[_Piece], palette: _Palette) -> None:
    color, points = palette.series[0], 0
    window = min(101, sum(len(piece.train) for piece in pieces) // 25) | 1
    for piece in pieces:
        rows = [row for row in piece.train if np.isfinite(row.get("loss", np.nan))]
        tokens, loss = _column(rows, "tokens"), _column(rows, "loss")
        thin = slice(None, None, 1 + len(rows) // _MAX_POINTS)
        # A legend entry for the first stage's lines alone; the others look the same.
        names = ("_", "_") if points else ("training, as logged", f"mean of {window} logged steps")
        faint: Any = {"alpha": 0.35, "linewidth": 0.8} if window > 1 else {"linewidth": 1.6}
        ax.plot(tokens[thin], loss[thin], color=color, label=names[0], **faint)
        if window > 1:
            ax.plot(tokens[thin], smooth(loss, window)[thin], color=color, linewidth=1.6, label=names[1])
        points += len(rows)
    _mark_events(ax, pieces, palette)
    ax.set_ylabel("loss (nats per token)")
    if points:
        _leave_out_first_steps(ax, [row for piece in pieces for row in piece.train], palette)
        ax.legend()
    else:
        _empty(ax, "no training step is logged yet", palette)


def _leave_out_first_steps(ax: Axes, rows: Sequence[Row], palette: _Palette) -> None:
    """Let the highest hundredth of the losses of a long run leave the picture, and say where it began.

    An untrained model's loss would press everything that is worth seeing against the bottom.
    """
    loss = _column(rows, "loss")
    low, high, top = np.nanmin(loss), np.nanquantile(loss, 0.99), np.nanmax(loss)
    if top - low > 2 * (high - low) > 0:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
        _label(
            ax, f"begins at {loss[0]:.2f}", (0, 1), ("axes fraction", "axes fraction"), (6, -14), color=palette.faint
        )


def _draw_held_out(
    ax: Axes, pieces: Sequence[_Piece], baselines: Mapping[str, Mapping[str, float]], palette: _Palette
) -> None:
    domains = list(dict.fromkeys(name for piece in pieces for row in piece.evals for name in row["domains"]))
    for i, domain in enumerate(domains):
        color, style = palette.series[i % len(palette.series)], _STYLES[i % len(_STYLES)]
        for piece in pieces:
            rows = [row for row in piece.evals if domain in row["domains"]]
            bits = [row["domains"][domain].get("bits_per_byte", np.nan) for row in rows]
            ax.plot(
                _column(rows, "tokens"), bits, color=color, linestyle=style, linewidth=1.4,
                marker=_MARKERS[i % len(_MARKERS)], markersize=4.5, markevery=1 + len(rows) // 20,
                label=domain if piece is pieces[0] else "_",
            )  # fmt: skip
        xz = baselines.get(domain, {}).get("xz -9")
        if xz is not None:
            ax.axhline(xz, color=color, linewidth=0.9, linestyle=style, alpha=0.7)
            text = f"xz -9, {domain}: {xz:.2f}"
            _label(ax, text, (1, xz), ("axes fraction", "data"), (-4, 3), ha="right", color=color)
    ax.set_ylabel("held-out bits per byte")
    ax.legend()


def _draw_learning_rate(ax: Axes, pieces: Sequence[_Piece], palette: _Palette) -> None:
    for piece in pieces:
        rows = [row for row in piece.train if "learning_rate" in row]
        ax.plot(_column(rows, "tokens"), _column(rows, "learning_rate"), color=palette.series[2], linewidth=1.4)
    ax.set_ylabel("learning rate")
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(3))


def _mark_events(ax: Axes, pieces: Sequence[_Piece], palette: _Palette) -> None:
    """A small triangle at the bottom where something happened to the training itself."""
    tokens = [
        float(np.interp(event["step"], _column(piece.train, "step"), _column(piece.train, "tokens")))
        for piece in pieces
        if piece.train
        for event in piece.events
    ]
    if tokens:
        ax.plot(
            tokens, [0.02] * len(tokens), transform=ax.get_xaxis_transform(), linestyle="none", marker="^",
            color=palette.ink, markersize=6, label="event (spike, rewind)",
        )  # fmt: skip


def _flops_axis(ax: Axes, rows: Sequence[Row]) -> None:
    """A second axis on top: model FLOPs, which grow at another rate per token in each stage."""
    tokens, flops = _column(rows, "tokens"), _column(rows, "flops")
    tokens, flops = np.concatenate([[0.0], tokens]), np.concatenate([[0.0], flops])
    if len(tokens) < 2 or np.any(np.diff(tokens) <= 0) or np.any(np.diff(flops) <= 0):
        return
    top = ax.secondary_xaxis("top", functions=(_line_through(tokens, flops), _line_through(flops, tokens)))
    top.xaxis.set_major_formatter(EngFormatter(sep=" "))
    top.set_xlabel("model FLOPs")


def _line_through(a: np.ndarray, b: np.ndarray) -> Callable[[Any], np.ndarray]:
    """The piecewise linear function through the points (a, b), its first and last pieces extended for ever."""

    def line(x: Any) -> np.ndarray:
        x = np.asarray(x, np.float64)
        after = np.maximum(x - a[-1], 0) * (b[-1] - b[-2]) / (a[-1] - a[-2])
        before = np.minimum(x - a[0], 0) * (b[1] - b[0]) / (a[1] - a[0])
        return np.asarray(np.interp(x, a, b) + after + before)

    return line


# ---- speed ----

# What interrupts training: its name in the timings, in the legend, and its look.
_PAUSES = (("compile", "compiling", "//"), ("evaluate", "evaluating", ""), ("save", "saving", "xxx"))


def _speed(run: RunData, palette: _Palette) -> Figure:
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    ax = figure.subplots()
    offset = 0.0  # minutes in the stages before
    spans: dict[str, list[tuple[float, float]]] = {kind: [] for kind, *_ in _PAUSES}
    for stage in run.stages:
        rows = [row for row in stage.timings if row["kind"] == "train"]
        rows = rows[:: 1 + len(rows) // _MAX_POINTS]
        minutes = offset + _column(rows, "seconds") / 60
        ax.plot(minutes, _column(rows, "tokens_per_second"), color=palette.series[0], linewidth=1.4)
        for row in stage.timings:
            if row["kind"] in spans and "duration" in row:
                spans[row["kind"]].append((offset + (row["seconds"] - row["duration"]) / 60, row["duration"] / 60))
        offset += max((row.get("seconds", 0.0) for row in stage.timings), default=0.0) / 60
    for kind, label, hatch in _PAUSES:
        if spans[kind]:
            ax.broken_barh(
                spans[kind], (0, 1), transform=ax.get_xaxis_transform(), facecolor=palette.grid,
                edgecolor=palette.faint, hatch=hatch, linewidth=0, label=label, zorder=0,
            )  # fmt: skip
    ax.set_xlabel("minutes of running time")
    ax.set_ylabel("tokens per second")
    ax.yaxis.set_major_formatter(EngFormatter(sep=" "))
    ax.set_ylim(0, 1.1 * ax.get_ylim()[1])
    ax.set_xlim(left=0)
    if any(spans.values()):
        figure.legend(loc="outside upper right", ncols=len(_PAUSES))
    return figure


# ---- shared ----


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row.get(name, np.nan) for row in rows], dtype=np.float64)


def _label(
    ax: Axes, text: str, xy: tuple[float, float], coordinates: tuple[str, str], offset: tuple[int, int], **style: Any
) -> None:
    """`text` at `xy`, moved by `offset` in points."""
    ax.annotate(
        text, xy, xycoords=coordinates, xytext=offset, textcoords="offset points", fontsize=8.5, **style
    )  # fmt: skip


def _empty(ax: Axes, message: str, palette: _Palette) -> None:
    ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", color=palette.faint)


@contextmanager
def _style(theme: Theme) -> Iterator[_Palette]:
    palette = _PALETTES[theme]
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


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
