"""Figures of a fit's parameters: the valley of the objective along each, and their correlations."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.valleys import MAX_PARAMETERS, correlations, limit_ratio, profiles
from pathways_lite.tracking.plot_style import Theme, style, to_svg

COLUMNS = 3


def profiles_svg(fit: Fit, theme: Theme) -> str | None:
    """Plot, for each parameter, the best objective with it held at a value, over that of the fit; None without any."""
    found = profiles(fit)
    if not found:
        return None
    intervals, limit = fit.parameter_intervals(), limit_ratio(fit)
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    with style(theme) as palette:
        figure = Figure(figsize=(7.2, 2.3 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for ax in axes[len(found) :]:
            ax.set_axis_off()
        for ax, (name, profile) in zip(axes, found.items(), strict=False):
            interval = intervals[name]
            if interval.has_limits:
                ax.axvspan(interval.low, interval.high, color=palette.grid, zorder=0)
            ax.plot(profile.values, profile.ratios, color=palette.series[0], linewidth=1.6)
            ax.plot([fit.values[name]], [1.0], "o", color=palette.series[1], markersize=5)
            if limit is not None:
                ax.axhline(limit, color=palette.faint, linewidth=1, linestyle=":")
            ax.set_xlim(profile.values[0], profile.values[-1])
            is_positive = next(p for p in fit.law.parameters if p.name == name).kind == "positive"
            if is_positive and profile.values[-1] > 3 * profile.values[0]:
                ax.set_xscale("log")
                ends = np.geomspace(profile.values[0], profile.values[-1], 5)[1:-1]
                ax.set_xticks(ends)
                ax.xaxis.set_minor_locator(NullLocator())
            else:
                ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.xaxis.set_major_formatter(FuncFormatter(_short_number))
            ax.set_xlabel(name)
        for ax in axes[::columns]:
            ax.set_ylabel("objective / best")
        return to_svg(figure)


def _short_number(value: float, _: object = None) -> str:
    """Format three digits: 1460, 0.366, 2.2e7."""
    return f"{float(f'{value:.3g}'):.6g}".replace("e+0", "e")


def correlation_svg(fit: Fit, theme: Theme) -> str | None:
    """Plot the correlations of the parameters; None for one parameter, many, or without intervals."""
    names = fit.law.names
    matrix = correlations(fit) if 2 <= len(names) <= MAX_PARAMETERS else None
    if matrix is None:
        return None
    with style(theme) as palette:
        figure = Figure(figsize=(7.2, 1.2 + 0.5 * len(names)), layout="constrained")
        ax = figure.subplots()
        image = ax.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        ax.grid(visible=False)
        labels = [f"ln {p.name}" if p.kind == "positive" else p.name for p in fit.law.parameters]
        ax.set_xticks(range(len(names)), labels, rotation=60)
        ax.set_yticks(range(len(names)), labels)
        for i in range(len(names)):
            for j in range(len(names)):
                color = "white" if abs(matrix[i, j]) > 0.6 else "#1d2433"
                ax.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=8, color=color)
        figure.colorbar(image, ax=ax, shrink=0.8)
        ax.tick_params(colors=palette.ink)
        return to_svg(figure)
