"""Figures of the law itself: its curve with a band, losses over compute, IsoFLOP slices."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.plots import COUNTS, amount, set_log_scale
from pathways_lite.scaling.table import COLUMNS
from pathways_lite.tracking.plot_style import Palette, Theme, line_style, style, to_svg

MOST_LINES = 6
BEYOND = 10.0  # times the data's range, to which a law is drawn
BAND = 0.25  # runs within this fraction of a budget belong to its slice


def law_svg(fit: Fit, theme: Theme) -> str | None:
    """Plot the law: over its only input with a 95 % band, or over compute and size for laws of N and D.

    None for laws of other inputs.
    """
    inputs = [name for name in fit.law.inputs if fit.data[name].ndim == 1]
    with style(theme) as palette:
        if len(inputs) == len(fit.law.inputs) == 1 and fit.data[inputs[0]].min() > 0:
            return to_svg(_draw_curve(fit, inputs[0], palette))
        if set(fit.law.inputs) == {"N", "D"}:
            return to_svg(_draw_surface(fit, palette))
    return None


def _draw_curve(fit: Fit, name: str, palette: Palette) -> Figure:
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    ax = figure.subplots()
    x, y = fit.data[name], fit.data[fit.law.target]
    grid = np.geomspace(x.min(), BEYOND * x.max(), 120)
    intervals = fit.predict({name: grid})
    value, low, high = (np.array([getattr(i, part) for i in intervals]) for part in ("value", "low", "high"))
    ax.plot(x, y, "o", color=palette.series[0], markersize=4, alpha=0.7, label="rows")
    ax.plot(grid, value, color=palette.series[1], label="law")
    if np.isfinite(low).any():
        ax.fill_between(grid, low, high, color=palette.series[1], alpha=0.18, linewidth=0, label="95 % of the law")
    ax.axvspan(x.max(), grid[-1], color=palette.grid, zorder=0, label="beyond the data")
    set_log_scale(ax, "x", counts="x" if name in COUNTS else "")
    meaning = f", {COLUMNS[name].meaning}" if name in COLUMNS else ""
    ax.set(xlabel=f"{name}{meaning}", ylabel=fit.law.target)
    ax.legend()
    return figure


def _draw_surface(fit: Fit, palette: Palette) -> Figure:
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_over_compute(left, fit, palette)
    _draw_slices(right, fit, palette)
    return figure


def _law_losses(fit: Fit, N: np.ndarray, D: np.ndarray) -> np.ndarray:
    return np.array([interval.value for interval in fit.predict({"N": N, "D": D})])


def _draw_over_compute(ax: Axes, fit: Fit, palette: Palette) -> None:
    """Plot losses over compute, with the law's line at a few of the measured sizes."""
    N, D, L = fit.data["N"], fit.data["D"], fit.data[fit.law.target]
    ax.plot(6 * N * D, L, "o", color=palette.faint, markersize=3, alpha=0.6, label="runs")
    sizes = np.unique(N)
    shown = sizes[np.unique(np.linspace(0, len(sizes) - 1, min(MOST_LINES, len(sizes))).astype(int))]
    budgets = 6 * N * D
    for i, size in enumerate(shown):
        grid = np.geomspace(max(budgets.min(), 6 * size * size), budgets.max(), 50)
        line = {**line_style(i, palette), "marker": ""}
        ax.plot(
            grid,
            _law_losses(fit, np.full(50, size), grid / (6 * size)),
            linewidth=1.3,
            label=f"N = {amount(size)}",
            **line,
        )
    set_log_scale(ax)
    ax.set(xlabel="compute C = 6ND (FLOPs)", ylabel=fit.law.target)
    ax.legend(fontsize=8)


def _draw_slices(ax: Axes, fit: Fit, palette: Palette) -> None:
    """Plot the law over sizes at four budgets, with the runs near them."""
    N, D, L = fit.data["N"], fit.data["D"], fit.data[fit.law.target]
    budgets = 6 * N * D
    grid = np.geomspace(N.min() / 2, N.max() * 2, 80)
    shown: list[float] = []
    for i, C in enumerate(np.quantile(budgets, [0.1, 0.4, 0.7, 0.95])):
        if any(abs(np.log(C / other)) < 0.5 for other in shown):
            continue
        shown.append(float(C))
        line = line_style(i, palette)
        losses = _law_losses(fit, grid, C / (6 * grid))
        visible = losses < L.max() * 1.05
        ax.plot(grid[visible], losses[visible], linewidth=1.3, label=f"C = {C:.2g}", **{**line, "marker": ""})
        near = np.abs(np.log(budgets / C)) < np.log1p(BAND)
        ax.plot(N[near], L[near], markersize=4, **{**line, "linestyle": ""})
    set_log_scale(ax, "x", counts="x")
    ax.set(xlabel="parameters N")
    ax.legend(fontsize=8)
