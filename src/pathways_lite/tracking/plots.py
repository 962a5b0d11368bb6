"""Pictures of a run: its loss curves and its speed. Drawn without a display, readable without colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from pathways_lite.tracking.log import Row
from pathways_lite.tracking.plot_style import Palette, Theme, annotate, line_style, style, to_svg
from pathways_lite.tracking.run_data import RunData, smooth

_AVERAGE_WEIGHTS = "average_domain_weights"

# More points than a screen has columns only make the file large.
_MAX_POINTS = 1500


def save_curves(run: RunData, *paths: str | Path) -> None:
    """Write the loss curves as PNG or SVG, by the ending of each path."""
    with style("light") as palette:
        figure = _draw_curves(run, palette)
        for path in paths:
            figure.savefig(path, dpi=160, facecolor="white")


def curves_svg(run: RunData, theme: Theme) -> str:
    """The loss curves as SVG text with a transparent background."""
    with style(theme) as palette:
        return to_svg(_draw_curves(run, palette))


def speed_svg(run: RunData, theme: Theme) -> str | None:
    """Tokens per second against running time as SVG text; None where there are no timings."""
    if not any(row["kind"] == "train" for stage in run.stages for row in stage.timings):
        return None
    with style(theme) as palette:
        return to_svg(_draw_speed(run, palette))


# ---- loss, held-out bits per byte, learning rate ----


@dataclass(frozen=True)
class _StageRows:
    """The rows of one stage, with `tokens` and `flops` counted over the chain. Lines are not drawn across stages."""

    name: str
    start: int  # tokens in the stages before
    train: list[Row]
    evals: list[Row]
    events: list[Row]


def _stage_rows(run: RunData) -> list[_StageRows]:
    pieces = []
    tokens, flops = 0, 0
    for stage in run.stages:
        if stage.begun:
            shifted = {
                kind: [row | {"tokens": row["tokens"] + tokens, "flops": row["flops"] + flops} for row in rows]
                for kind, rows in (("train", stage.of_kind("train")), ("eval", stage.of_kind("eval")))
            }
            pieces.append(_StageRows(stage.name, tokens, shifted["train"], shifted["eval"], stage.of_kind("event")))
        tokens, flops = tokens + stage.last.get("tokens", 0), flops + stage.last.get("flops", 0)
    return pieces


def _draw_curves(run: RunData, palette: Palette) -> Figure:
    pieces = _stage_rows(run)
    panels: list[tuple[float, Callable[[Axes], None]]] = [(3.0, lambda ax: _draw_loss(ax, pieces, palette))]
    if any(piece.evals for piece in pieces):
        baselines = run.latest_summary("compressors") or {}
        panels.append((2.6, lambda ax: _draw_held_out(ax, pieces, baselines, palette)))
    if any("domain_weights" in row for piece in pieces for row in piece.train):
        panels.append((1.8, lambda ax: _draw_domain_weights(ax, pieces, palette)))
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
        annotate(
            axes[0], piece.name, (piece.start, 1), ("data", "axes fraction"), (4, -4), va="top", color=palette.faint
        )
    axes[-1].set_xlabel("training tokens")
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes[-1].set_xlim(left=0)
    _add_flops_axis(axes[0], [row for piece in pieces for row in piece.train])
    figure.align_ylabels()
    return figure


def _draw_loss(ax: Axes, pieces: Sequence[_StageRows], palette: Palette) -> None:
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
        _crop_first_steps(ax, [row for piece in pieces for row in piece.train], palette)
        ax.legend()
    else:
        _draw_placeholder(ax, "no training step is logged yet", palette)


def _crop_first_steps(ax: Axes, rows: Sequence[Row], palette: Palette) -> None:
    """Let the highest hundredth of the losses of a long run leave the picture, and say where it began.

    An untrained model's loss would press everything that is worth seeing against the bottom.
    """
    loss = _column(rows, "loss")
    low, high, top = np.nanmin(loss), np.nanquantile(loss, 0.99), np.nanmax(loss)
    if top - low > 2 * (high - low) > 0:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
        annotate(
            ax, f"begins at {loss[0]:.2f}", (0, 1), ("axes fraction", "axes fraction"), (6, -14), color=palette.faint
        )


def _draw_held_out(
    ax: Axes, pieces: Sequence[_StageRows], baselines: Mapping[str, Mapping[str, float]], palette: Palette
) -> None:
    domains = list(dict.fromkeys(name for piece in pieces for row in piece.evals for name in row["domains"]))
    for i, domain in enumerate(domains):
        line = line_style(i, palette)
        for piece in pieces:
            rows = [row for row in piece.evals if domain in row["domains"]]
            bits = [row["domains"][domain].get("bits_per_byte", np.nan) for row in rows]
            ax.plot(
                _column(rows, "tokens"), bits, linewidth=1.4, markersize=4.5, markevery=1 + len(rows) // 20,
                label=domain if piece is pieces[0] else "_", **line,
            )  # fmt: skip
        xz = baselines.get(domain, {}).get("xz -9")
        if xz is not None:
            ax.axhline(xz, color=line["color"], linewidth=0.9, linestyle=line["linestyle"], alpha=0.7)
            text = f"xz -9, {domain}: {xz:.2f}"
            annotate(ax, text, (1, xz), ("axes fraction", "data"), (-4, 3), ha="right", color=line["color"])
    ax.set_ylabel("held-out bits per byte")
    ax.legend()


def _draw_domain_weights(ax: Axes, pieces: Sequence[_StageRows], palette: Palette) -> None:
    """What proxies learn: the average weight of each domain, and faintly the weight at each step."""
    learning = [[row for row in piece.train if "domain_weights" in row] for piece in pieces]
    domains = list(dict.fromkeys(name for rows in learning for row in rows for name in row["domain_weights"]))
    for i, domain in enumerate(domains):
        line, label = line_style(i, palette), domain
        for rows in filter(None, learning):
            tokens = _column(rows, "tokens")
            at_each, average = ([row[name][domain] for row in rows] for name in ("domain_weights", _AVERAGE_WEIGHTS))
            ax.plot(tokens, at_each, color=line["color"], alpha=0.35, linewidth=0.8)
            ax.plot(tokens, average, linewidth=1.4, markersize=4.5, markevery=1 + len(rows) // 20, label=label, **line)
            label = "_"
    ax.set_ylabel("learned weight")
    ax.legend(ncols=2)


def _draw_learning_rate(ax: Axes, pieces: Sequence[_StageRows], palette: Palette) -> None:
    for piece in pieces:
        rows = [row for row in piece.train if "learning_rate" in row]
        ax.plot(_column(rows, "tokens"), _column(rows, "learning_rate"), color=palette.series[2], linewidth=1.4)
    ax.set_ylabel("learning rate")
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(3))


def _mark_events(ax: Axes, pieces: Sequence[_StageRows], palette: Palette) -> None:
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


def _add_flops_axis(ax: Axes, rows: Sequence[Row]) -> None:
    """A second axis on top: model FLOPs, which grow at another rate per token in each stage."""
    tokens, flops = _column(rows, "tokens"), _column(rows, "flops")
    tokens, flops = np.concatenate([[0.0], tokens]), np.concatenate([[0.0], flops])
    if len(tokens) < 2 or np.any(np.diff(tokens) <= 0) or np.any(np.diff(flops) <= 0):
        return
    top = ax.secondary_xaxis("top", functions=(_piecewise_linear(tokens, flops), _piecewise_linear(flops, tokens)))
    top.xaxis.set_major_formatter(EngFormatter(sep=" "))
    top.set_xlabel("model FLOPs")


def _piecewise_linear(a: np.ndarray, b: np.ndarray) -> Callable[[Any], np.ndarray]:
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


def _draw_speed(run: RunData, palette: Palette) -> Figure:
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


def _draw_placeholder(ax: Axes, message: str, palette: Palette) -> None:
    ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", color=palette.faint)


# A picture of how dense each layer's arrays are.


MAX_NUMBERED_LAYERS = 24
"""Up to so many layers, shares are written into the picture."""


def draw_densities(densities: Mapping[str, np.ndarray], path: Path) -> None:
    """Shares of active weights, [layers] by array, as a map of arrays by layers; an array without layers has one."""
    layers = max(len(row) for row in densities.values())
    grid = np.full((len(densities), layers), np.nan)
    for at, row in enumerate(densities.values()):
        grid[at, : len(row)] = row
    with style("light") as palette:
        figure = Figure(
            figsize=(max(5.0, min(12.0, 2.6 + 0.45 * layers)), 1.4 + 0.34 * len(densities)), layout="constrained"
        )
        ax = figure.subplots()
        ax.grid(visible=False)
        image = ax.imshow(100 * grid, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        ax.set_yticks(range(len(densities)), [name.removeprefix("layers.") for name in densities])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
        ax.set_xlabel("layer, from the bottom")
        for (at, layer), share in np.ndenumerate(grid):
            if layers <= MAX_NUMBERED_LAYERS and not np.isnan(share):
                color = "white" if share > 0.6 else palette.ink
                ax.text(layer, at, f"{100 * share:.0f}", ha="center", va="center", fontsize=7.5, color=color)
        figure.colorbar(image, ax=ax, label="active weights (%)")
        figure.savefig(path, dpi=160)
