"""Heat maps of a stage's statistics, layers by steps: gradients, updates, activations; and norms by kind of array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pathways_lite.tracking.log import Row
from pathways_lite.tracking.plot_style import Palette, Theme, label_text, line_style, style, to_svg
from pathways_lite.tracking.run_data import StageData

_MAX_COLUMNS = 400  # a heat map has not more pixels

Grid = np.ndarray  # float64 [layers, steps], NaN where nothing is trained


def statistics_svg(stage: StageData, theme: Theme) -> str | None:
    """Render a stage's statistics as SVG text; None if it has none."""
    rows = stage.rows_of_kind("statistics")
    rows = rows[:: 1 + len(rows) // _MAX_COLUMNS]
    if not rows:
        return None
    with style(theme) as palette:
        return to_svg(_draw(rows, palette))


def _draw(rows: Sequence[Row], palette: Palette) -> Figure:
    panels: list[tuple[str, Callable[[Sequence[Row]], Grid]]] = [
        ("gradient norm", lambda rows: layer_norms(rows, "gradient")),
        ("update norm / parameter norm", relative_updates),
        ("parameter norm", lambda rows: layer_norms(rows, "parameter")),
        ("attention logit, largest", lambda rows: _by_layer(rows, "attention_logit_max")),
        ("residual stream, RMS", lambda rows: _by_layer(rows, "residual_rms")),
        ("residual stream, largest", lambda rows: _by_layer(rows, "residual_max")),
    ]
    figure = Figure(figsize=(7.2, 8.4), layout="constrained")
    grid = figure.add_gridspec(4, 2)
    for number, (title, grid_of) in enumerate(panels):
        ax = figure.add_subplot(grid[number // 2, number % 2])
        _draw_heat_map(ax, title, grid_of(rows), [row["step"] for row in rows], palette)
    ax = figure.add_subplot(grid[3, :])
    _draw_kinds(ax, rows, palette)
    ax.set_xlabel("step")
    return figure


def _draw_heat_map(ax: Axes, title: str, grid: Grid, steps: Sequence[int], palette: Palette) -> None:
    """Draw a grid with the first layer at the bottom, on a logarithmic scale of color."""
    ax.set_title(title, fontsize=9.5)
    ax.grid(visible=False)
    ax.set_ylabel("layer")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    positive = grid[np.isfinite(grid) & (grid > 0)]
    if not positive.size:
        ax.text(0.5, 0.5, "nothing above 0", transform=ax.transAxes, ha="center", color=palette.faint)
        return
    low, high = float(positive.min()), float(positive.max())
    half = (steps[-1] - steps[0]) / max(1, len(steps) - 1) / 2 or 0.5
    image = ax.imshow(
        np.where(grid > 0, grid, np.nan),
        norm=LogNorm(low, max(high, 1.001 * low)),
        cmap="viridis",
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(steps[0] - half, steps[-1] + half, -0.5, len(grid) - 0.5),
    )
    bar = ax.figure.colorbar(image, ax=ax, format="%.2g")
    bar.ax.minorticks_off()
    bar.set_ticks(np.geomspace(low, max(high, 1.001 * low), 4).tolist())


def _draw_kinds(ax: Axes, rows: Sequence[Row], palette: Palette) -> None:
    """Plot the gradient's norm by kind of array, all layers together."""
    ax.set_title("gradient norm by array", fontsize=9.5)
    steps, largest = [row["step"] for row in rows], 0.0
    for number, name in enumerate(rows[0]["gradient"]):
        norms = [np.sqrt(np.nansum(np.square(_floats(row["gradient"].get(name))))) for row in rows]
        largest = max(largest, *norms)
        label = label_text(name.removeprefix("layers.").removesuffix(".scale"))
        line = line_style(number, palette)
        ax.plot(steps, norms, label=label, linewidth=1.1, markersize=3, markevery=1 + len(rows) // 6, **line)
    if largest > 0:
        ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.32), ncols=5, handlelength=2.2)


# ---- numbers ----


def layer_norms(rows: Sequence[Row], quantity: str) -> Grid:
    """Return the norms of all stacked arrays of a layer together, for the layers that have any."""
    return np.stack([_layer_norms(row[quantity], row[quantity]) for row in rows], axis=1)


def relative_updates(rows: Sequence[Row]) -> Grid:
    """Return the norm of each layer's update relative to that of the parameters that it updates."""
    columns = [
        _layer_norms(row["update"], row["update"]) / _layer_norms(row["parameter"], row["update"]) for row in rows
    ]
    return np.stack(columns, axis=1)


def _layer_norms(norms: Mapping[str, Any], trained: Mapping[str, Any]) -> np.ndarray:
    """Combine the norms of arrays, of each layer those that have a number in `trained`; NaN where none has."""
    stacked = [name for name, value in trained.items() if isinstance(value, list)]
    if not stacked:
        return np.full(1, np.nan)
    present = np.stack([np.isfinite(_floats(trained[name])) for name in stacked])
    squares = np.stack([np.square(_floats(norms[name])) for name in stacked])
    total = np.sqrt(np.where(present, squares, 0.0).sum(axis=0))
    return np.where(present.any(axis=0), total, np.nan)


def _by_layer(rows: Sequence[Row], name: str) -> Grid:
    return np.stack([_floats(row[name]) for row in rows], axis=1)


def _floats(values: Any) -> np.ndarray:
    """Return numbers of a row, in which None stands for what is not trained, as float64."""
    return np.asarray(values, dtype=np.float64)
