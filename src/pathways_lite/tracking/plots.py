"""Figures of a run: loss curves, speed, and densities. Drawn without a display, readable without color."""

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
from pathways_lite.tracking.plot_style import (
    Palette,
    Theme,
    annotate,
    label_text,
    line_style,
    save_figure,
    style,
    to_svg,
)
from pathways_lite.tracking.run_data import RunData, smooth

_AVERAGE_WEIGHTS = "average_domain_weights"

# More points than a screen has columns would only make the file larger.
_MAX_POINTS = 1500


def save_curves(run: RunData, *paths: str | Path) -> None:
    """Write the loss curves as PNG or SVG, according to the suffix of each path."""
    with style("light") as palette:
        figure = _draw_curves(run, palette)
        for path in paths:
            save_figure(figure, Path(path))


def curves_svg(run: RunData, theme: Theme) -> str:
    """Render the loss curves as SVG text with a transparent background."""
    with style(theme) as palette:
        return to_svg(_draw_curves(run, palette))


def speed_svg(run: RunData, theme: Theme) -> str | None:
    """Render tokens per second over running time as SVG text; None if there are no timings."""
    if not any(row["kind"] == "train" for stage in run.stages for row in stage.timings):
        return None
    with style(theme) as palette:
        return to_svg(_draw_speed(run, palette))


# ---- loss, held-out bits per byte, learning rate ----


@dataclass(frozen=True)
class _StageRows:
    """The log rows of one stage, with `tokens` and `flops` cumulative over the chain. Lines do not cross stages."""

    name: str
    start: int  # tokens in the stages before
    train: list[Row]
    evals: list[Row]
    events: list[Row]


def _stage_rows(run: RunData) -> list[_StageRows]:
    stages = []
    tokens, flops = 0, 0
    for stage in run.stages:
        if stage.has_begun:
            cumulative = {
                kind: [row | {"tokens": row["tokens"] + tokens, "flops": row["flops"] + flops} for row in rows]
                for kind, rows in (("train", stage.rows_of_kind("train")), ("eval", stage.rows_of_kind("eval")))
            }
            stages.append(
                _StageRows(stage.name, tokens, cumulative["train"], cumulative["eval"], stage.rows_of_kind("event"))
            )
        tokens, flops = tokens + stage.last_counts.get("tokens", 0), flops + stage.last_counts.get("flops", 0)
    return stages


def _draw_curves(run: RunData, palette: Palette) -> Figure:
    stages = _stage_rows(run)
    panels: list[tuple[float, Callable[[Axes], None]]] = [(3.0, lambda ax: _draw_loss(ax, stages, palette))]
    if any(row["domains"] for stage in stages for row in stage.evals):
        baselines = run.latest_summary("compressors") or {}
        panels.append((2.6, lambda ax: _draw_held_out(ax, stages, baselines, palette)))
    if any(row.get("tasks") for stage in stages for row in stage.evals):
        panels.append((2.2, lambda ax: _draw_tasks(ax, stages, palette)))
    if any("domain_weights" in row for stage in stages for row in stage.train):
        panels.append((1.8, lambda ax: _draw_domain_weights(ax, stages, palette)))
    if any("learning_rate" in row for stage in stages for row in stage.train):
        panels.append((1.1, lambda ax: _draw_learning_rate(ax, stages, palette)))
    heights = [height for height, _ in panels]
    figure = Figure(figsize=(7.2, sum(heights) + 0.9), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (_, draw) in zip(axes, panels, strict=True):
        draw(ax)
        for stage in stages[1:]:
            ax.axvline(stage.start, color=palette.faint, linewidth=0.8, linestyle=(0, (2, 3)))
    for stage in stages if len(stages) > 1 else []:
        annotate(
            axes[0], stage.name, (stage.start, 1), ("data", "axes fraction"), (4, -4), va="top", color=palette.faint
        )
    axes[-1].set_xlabel("training tokens")
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes[-1].set_xlim(left=0)
    _add_flops_axis(axes[0], [row for stage in stages for row in stage.train])
    figure.align_ylabels()
    return figure


def _draw_loss(ax: Axes, stages: Sequence[_StageRows], palette: Palette) -> None:
    color, n_points = palette.series[0], 0
    window = min(101, sum(len(stage.train) for stage in stages) // 25) | 1
    for stage in stages:
        rows = [row for row in stage.train if np.isfinite(_shown_loss(row))]
        tokens, loss = _column(rows, "tokens"), np.array([_shown_loss(row) for row in rows])
        thinned = slice(None, None, 1 + len(rows) // _MAX_POINTS)
        # Only the first stage's lines have a legend entry; the others look the same.
        labels = ("_", "_") if n_points else ("training, mean since the row before", f"mean of {window} rows")
        faint: Any = {"alpha": 0.35, "linewidth": 0.8} if window > 1 else {"linewidth": 1.6}
        ax.plot(tokens[thinned], loss[thinned], color=color, label=labels[0], **faint)
        if window > 1:
            ax.plot(tokens[thinned], smooth(loss, window)[thinned], color=color, linewidth=1.6, label=labels[1])
        n_points += len(rows)
    _mark_events(ax, stages, palette)
    ax.set_ylabel("loss (nats per token)")
    if n_points:
        _crop_first_steps(ax, [row for stage in stages for row in stage.train], palette)
        ax.legend()
    else:
        _draw_placeholder(ax, "no training step has been logged yet", palette)


def _shown_loss(row: Row) -> float:
    """Return the loss that is drawn, as progress shows it: the mean since the row before, where the log has it.

    A single batch's is mostly noise where rows are few.
    """
    mean = row.get("mean_loss", np.nan)
    return float(mean if np.isfinite(mean) else row.get("loss", np.nan))


def _crop_first_steps(ax: Axes, rows: Sequence[Row], palette: Palette) -> None:
    """Crop the highest percent of the losses of a long run, and label the first loss.

    The losses of an untrained model would squeeze all others to the bottom of the plot.
    """
    loss = np.array([_shown_loss(row) for row in rows])
    low, high, highest = np.nanmin(loss), np.nanquantile(loss, 0.99), np.nanmax(loss)
    if highest - low > 2 * (high - low) > 0:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
        annotate(
            ax, f"starts at {loss[0]:.2f}", (0, 1), ("axes fraction", "axes fraction"), (6, -14), color=palette.faint
        )


def _draw_held_out(
    ax: Axes, stages: Sequence[_StageRows], baselines: Mapping[str, Mapping[str, float]], palette: Palette
) -> None:
    domains = list(dict.fromkeys(name for stage in stages for row in stage.evals for name in row["domains"]))
    for i, domain in enumerate(domains):
        line = line_style(i, palette)
        for stage in stages:
            rows = [row for row in stage.evals if domain in row["domains"]]
            bits = [row["domains"][domain].get("bits_per_byte", np.nan) for row in rows]
            ax.plot(
                _column(rows, "tokens"), bits, linewidth=1.4, markersize=4.5, markevery=1 + len(rows) // 20,
                label=label_text(domain) if stage is stages[0] else "_", **line,
            )  # fmt: skip
            _draw_average(ax, rows, domain, line["color"], labeled=stage is stages[0])
        xz = baselines.get(domain, {}).get("xz -9")
        if xz is not None:
            # Named in the legend, which is where no points are; beside the line they may be.
            name = f"xz -9, {label_text(domain)}: {xz:.2f}"
            ax.axhline(xz, color=line["color"], linewidth=0.9, linestyle=line["linestyle"], alpha=0.7, label=name)
    lossy = any(result.get("lossy") for stage in stages for row in stage.evals for result in row["domains"].values())
    ax.set_ylabel("held-out bits per byte" + (" (not a code length)" if lossy else ""))
    ax.legend()


def _draw_tasks(ax: Axes, stages: Sequence[_StageRows], palette: Palette) -> None:
    """Plot the accuracy of each task, with a line at chance."""
    evals = [[row for row in stage.evals if row.get("tasks")] for stage in stages]
    names = list(dict.fromkeys(name for rows in evals for row in rows for name in row["tasks"]))
    for i, name in enumerate(names):
        line, label = line_style(i, palette), label_text(name)
        for rows in ([row for row in each if name in row["tasks"]] for each in evals):
            accuracy = [row["tasks"][name].get("accuracy", np.nan) for row in rows]
            ax.plot(
                _column(rows, "tokens"), accuracy, linewidth=1.4, markersize=4.5, markevery=1 + len(rows) // 20,
                label=label if rows else "_", **line,
            )  # fmt: skip
            label = "_" if rows else label
            if rows and (chance := rows[-1]["tasks"][name].get("chance", 0)):
                ax.axhline(chance, color=line["color"], linewidth=0.9, linestyle=line["linestyle"], alpha=0.7)
    ax.set_ylabel("accuracy of tasks")
    ax.set_ylim(bottom=-0.02)  # points at 0 are seen
    ax.legend()


def _draw_average(ax: Axes, rows: Sequence[Row], domain: str, color: Any, *, labeled: bool) -> None:
    """Plot the results of a moving average of the parameters, dotted, where there is one."""
    rows = [row for row in rows if domain in row.get("average_domains", {})]
    bits = [row["average_domains"][domain].get("bits_per_byte", np.nan) for row in rows]
    label = f"{label_text(domain)}, average" if labeled and rows else "_"
    ax.plot(_column(rows, "tokens"), bits, color=color, linewidth=1.4, linestyle=(0, (1, 1)), label=label)


def _draw_domain_weights(ax: Axes, stages: Sequence[_StageRows], palette: Palette) -> None:
    """Plot the domain weights that proxies learn: the averages, and faintly the weights at each step."""
    weight_rows = [[row for row in stage.train if "domain_weights" in row] for stage in stages]
    domains = list(dict.fromkeys(name for rows in weight_rows for row in rows for name in row["domain_weights"]))
    for i, domain in enumerate(domains):
        line, name_in_legend = line_style(i, palette), label_text(domain)
        for rows in filter(None, weight_rows):
            tokens = _column(rows, "tokens")
            current, average = ([row[name][domain] for row in rows] for name in ("domain_weights", _AVERAGE_WEIGHTS))
            ax.plot(tokens, current, color=line["color"], alpha=0.35, linewidth=0.8)
            ax.plot(
                tokens,
                average,
                linewidth=1.4,
                markersize=4.5,
                markevery=1 + len(rows) // 20,
                label=name_in_legend,
                **line,
            )
            name_in_legend = "_"
    ax.set_ylabel("learned weight")
    ax.legend(ncols=2)


def _draw_learning_rate(ax: Axes, stages: Sequence[_StageRows], palette: Palette) -> None:
    for stage in stages:
        rows = [row for row in stage.train if "learning_rate" in row]
        ax.plot(_column(rows, "tokens"), _column(rows, "learning_rate"), color=palette.series[2], linewidth=1.4)
    ax.set_ylabel("learning rate")
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(3))


def _mark_events(ax: Axes, stages: Sequence[_StageRows], palette: Palette) -> None:
    """Mark events of the training itself by small triangles at the bottom."""
    tokens = [
        float(np.interp(event["step"], _column(stage.train, "step"), _column(stage.train, "tokens")))
        for stage in stages
        if stage.train
        for event in stage.events
    ]
    if tokens:
        ax.plot(
            tokens, [0.02] * len(tokens), transform=ax.get_xaxis_transform(), linestyle="none", marker="^",
            color=palette.ink, markersize=6, label="event (spike, rewind)",
        )  # fmt: skip


def _add_flops_axis(ax: Axes, rows: Sequence[Row]) -> None:
    """Add an axis of model FLOPs on top; the FLOPs per token differ between stages."""
    tokens, flops = _column(rows, "tokens"), _column(rows, "flops")
    tokens, flops = np.concatenate([[0.0], tokens]), np.concatenate([[0.0], flops])
    if len(tokens) < 2 or np.any(np.diff(tokens) <= 0) or np.any(np.diff(flops) <= 0):
        return
    top = ax.secondary_xaxis("top", functions=(_piecewise_linear(tokens, flops), _piecewise_linear(flops, tokens)))
    top.xaxis.set_major_formatter(EngFormatter(sep=" "))
    top.set_xlabel("model FLOPs")


def _piecewise_linear(xs: np.ndarray, ys: np.ndarray) -> Callable[[Any], np.ndarray]:
    """Return the piecewise linear function through the points (xs, ys), extrapolated linearly at both ends."""

    def evaluate(x: Any) -> np.ndarray:
        x = np.asarray(x, np.float64)
        above = np.maximum(x - xs[-1], 0) * (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
        below = np.minimum(x - xs[0], 0) * (ys[1] - ys[0]) / (xs[1] - xs[0])
        return np.asarray(np.interp(x, xs, ys) + above + below)

    return evaluate


# ---- speed ----

# What interrupts training: its kind in the timings, its label and its hatch.
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


# ---- densities of pruned models ----

MAX_NUMBERED_LAYERS = 24
"""Up to this number of layers, densities are also written as numbers."""


def draw_densities(densities: Mapping[str, np.ndarray], path: Path) -> None:
    """Plot the shares of active weights, [layers] by array name; an array outside the layers has one value."""
    layers = max(len(row) for row in densities.values())
    grid = np.full((len(densities), layers), np.nan)
    for array_index, row in enumerate(densities.values()):
        grid[array_index, : len(row)] = row
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
        for (array_index, layer), density in np.ndenumerate(grid):
            if layers <= MAX_NUMBERED_LAYERS and not np.isnan(density):
                color = "white" if density > 0.6 else palette.ink
                ax.text(layer, array_index, f"{100 * density:.0f}", ha="center", va="center", fontsize=7.5, color=color)
        figure.colorbar(image, ax=ax, label="active weights (%)")
        save_figure(figure, path)


# ---- shared ----


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row.get(name, np.nan) for row in rows], dtype=np.float64)


def _draw_placeholder(ax: Axes, message: str, palette: Palette) -> None:
    ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", color=palette.faint)
