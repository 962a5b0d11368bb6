"""Figures of a fit: measured against predicted values, residuals, and the compute-optimal frontier."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.quality import relative_errors, worst_rows
from pathways_lite.scaling.table import derive_columns, numeric_column
from pathways_lite.tracking.plot_style import Palette, Theme, label_text, style, to_svg

COUNTS = frozenset({"N", "D", "U", "N_active", "N_average", "D_examples", "N_non_embedding"})
"""Inputs whose values are written like 1B."""


def fit_svg(fit: Fit, theme: Theme) -> str:
    """Plot measured against predicted values, with the line on which they are equal."""
    with style(theme) as palette:
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        ax = figure.subplots()
        measured, predicted = fit.data[fit.law.target], fit.predicted()
        both = np.concatenate([measured, predicted])
        ends = [both.min(), both.max()]
        ax.plot(ends, ends, color=palette.faint, linewidth=1, label="equal")
        ax.plot(predicted, measured, "o", color=palette.series[0], markersize=4, alpha=0.7, label="rows")
        if both.min() > 0:
            set_log_scale(ax)
        ax.set_xlabel(f"{fit.law.target}, predicted")
        ax.set_ylabel(f"{fit.law.target}, measured")
        ax.legend()
        return to_svg(figure)


def residuals_svg(fit: Fit, theme: Theme) -> str:
    """Plot relative residuals against every input: a pattern is something that the law does not describe."""
    with style(theme) as palette:
        inputs = [name for name in fit.law.inputs if fit.data[name].ndim == 1]
        figure = Figure(figsize=(7.2, 2.4 * len(inputs)), layout="constrained")
        axes = figure.subplots(len(inputs), 1, squeeze=False, sharey=True)[:, 0]
        measured = fit.data[fit.law.target]
        percent = 100 * relative_errors(measured, fit.predicted())
        named = [(row.index, label_text(_short(row.name))) for row in worst_rows(fit) if not np.isnan(row.error)]
        for i, (ax, name) in enumerate(zip(axes, inputs, strict=True)):
            ax.axhline(0, color=palette.faint, linewidth=1)
            ax.plot(fit.data[name], percent, "o", color=palette.series[i % 5], markersize=4, alpha=0.7)
            if fit.data[name].min() > 0:
                set_log_scale(ax, "x", counts="x" if name in COUNTS else "")
            _name_points(ax, [(float(fit.data[name][row]), float(percent[row]), text) for row, text in named], palette)
            ax.set_xlabel(name)
            ax.set_ylabel("residual (%)")
        return to_svg(figure)


def _short(name: str, most: int = 28) -> str:
    """Return the end of a long name: names of runs begin alike."""
    return name if len(name) <= most else "…" + name[1 - most :]


def _name_points(ax: Axes, points: list[tuple[float, float, str]], palette: Palette) -> None:
    """Write names beside points, towards the middle of the axes, and apart where points are close."""
    low, high = ax.get_xlim()
    bottom, top = ax.get_ylim()
    middle = np.sqrt(low * high) if ax.get_xscale() == "log" else (low + high) / 2
    step = 0.11 * (top - bottom)  # the height of a line of text
    written: list[float] = []
    for x, y, text in sorted(points, key=lambda point: point[1]):
        at = max([y, *(other + step for other in written if abs(other + step - y) < 2 * step and other + step > y)])
        written.append(at)
        is_left = x > middle
        ax.annotate(
            text, (x, y), xytext=((-6 if is_left else 6), (at - y) / (top - bottom) * 130), textcoords="offset points",
            ha="right" if is_left else "left", va="center", fontsize=7.5, color=palette.ink,
        )  # fmt: skip


def frontier_svg(fit: Fit, theme: Theme) -> str | None:
    """Plot optimal N and D with 95 % bands over C, up to ten times the data's compute; None without an optimum."""
    table = derive_columns(fit.data, ("C",))
    if (
        fit.law.optimal is None
        or "C" not in table
        or min((fit.values[name] for name in fit.law.exponents), default=1) <= 0
    ):
        return None
    with style(theme) as palette:
        C = numeric_column(table, "C")
        budgets = np.geomspace(C.min(), 10 * C.max(), 40)
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        ax = figure.subplots()
        frontier = fit.frontier(budgets)
        for i, (name, label) in enumerate((("N", "parameters"), ("D", "tokens"))):
            value, low, high = frontier[name]
            ax.plot(budgets, value, color=palette.series[i], label=label, linestyle=("-", "--")[i])
            ax.fill_between(budgets, low, high, color=palette.series[i], alpha=0.18, linewidth=0)
        ax.axvspan(C.max(), budgets[-1], color=palette.grid, zorder=0, label="beyond the data")
        set_log_scale(ax, counts="y")
        ax.set(xlabel="compute C (FLOPs)", ylabel="optimal N and D")
        ax.legend()
        return to_svg(figure)


def amount(value: float, _: object = None) -> str:
    """Format a count as the field writes it: 10.4B parameters, 1.4T tokens; powers of ten outside k to T."""
    for suffix, unit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0)):
        if 0.9995 * unit <= abs(value) < 9.995e14:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}".replace("e+", "e")


def set_log_scale(ax: Axes, axis_names: str = "xy", *, counts: str = "") -> None:
    """Make axes logarithmic, with labels like 1e9, or plain numbers if they span little more than a decade.

    `counts`: the axes with parameters or tokens, whose labels are like 1B.
    """
    for axis_name in axis_names:
        getattr(ax, f"set_{axis_name}scale")("log")
        axis = getattr(ax, f"{axis_name}axis")
        low, high = axis.get_view_interval()
        if axis_name in counts:
            axis.set_major_formatter(FuncFormatter(amount))
            axis.set_minor_formatter(NullFormatter())
        elif high / low < 20:
            axis.set_major_locator(MaxNLocator(6))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_locator(NullLocator())
        else:
            axis.set_major_formatter(
                FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+0", "e").replace("e+", "e"))
            )
            axis.set_minor_formatter(NullFormatter())
