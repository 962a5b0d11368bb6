"""Pictures of a fit: what was measured against what the law says, what is left over, and the optimal frontier."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pathways_lite.scaling.bootstrap import interval
from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.table import numeric, with_derived
from pathways_lite.tracking.drawing import Palette, Theme, style, svg


def fit_svg(fit: Fit, theme: Theme) -> str:
    """Measured against predicted, with the line on which they are equal."""
    with style(theme) as palette:
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        ax = figure.subplots()
        measured, predicted = fit.data[fit.law.target], fit.predicted()
        both = np.concatenate([measured, predicted])
        ends = [both.min(), both.max()]
        ax.plot(ends, ends, color=palette.faint, linewidth=1, label="equal")
        ax.plot(predicted, measured, "o", color=palette.series[0], markersize=4, alpha=0.7, label="rows")
        if both.min() > 0:
            ax.set(xscale="log", yscale="log")
            _plain_ticks(ax)
        ax.set_xlabel(f"{fit.law.target} by the law")
        ax.set_ylabel(f"{fit.law.target} measured")
        ax.legend()
        return svg(figure)


def residuals_svg(fit: Fit, theme: Theme) -> str:
    """Relative residuals against every input: a pattern is what the law does not know."""
    with style(theme) as palette:
        inputs = [name for name in fit.law.inputs if fit.data[name].ndim == 1]
        figure = Figure(figsize=(7.2, 2.4 * len(inputs)), layout="constrained")
        axes = figure.subplots(len(inputs), 1, squeeze=False, sharey=True)[:, 0]
        measured = fit.data[fit.law.target]
        percent = 100 * (measured - fit.predicted()) / np.maximum(np.abs(measured), 1e-300)
        for i, (ax, name) in enumerate(zip(axes, inputs, strict=True)):
            ax.axhline(0, color=palette.faint, linewidth=1)
            ax.plot(fit.data[name], percent, "o", color=palette.series[i % 5], markersize=4, alpha=0.7)
            if fit.data[name].min() > 0:
                ax.set_xscale("log")
            ax.set_xlabel(name)
            ax.set_ylabel("residual (%)")
        return svg(figure)


def frontier_svg(fit: Fit, theme: Theme) -> str | None:
    """Compute-optimal N and D over C, with 95 % bands, as far as ten times the data's compute; None without one."""
    table = with_derived(fit.data, ("C",))
    if fit.law.optimal is None or "C" not in table or min(fit.values[name] for name in fit.law.exponents) <= 0:
        return None
    with style(theme) as palette:
        C = numeric(table, "C")
        budgets = np.geomspace(C.min(), 10 * C.max(), 40)
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        ax = figure.subplots()
        for i, (name, label) in enumerate((("N", "parameters"), ("D", "tokens"))):
            _band(ax, fit, budgets, name, label, palette, i)
        ax.axvspan(C.max(), budgets[-1], color=palette.grid, zorder=0, label="beyond the data")
        ax.set(xscale="log", yscale="log", xlabel="compute C (FLOPs)", ylabel="optimal N and D")
        ax.legend()
        return svg(figure)


def _band(ax: Axes, fit: Fit, budgets: np.ndarray, name: str, label: str, palette: Palette, i: int) -> None:
    optimal = fit.law.optimal
    assert optimal is not None
    color = palette.series[i]
    ax.plot(
        budgets, [optimal(fit.values, C)[name] for C in budgets], color=color, label=label, linestyle=("-", "--")[i]
    )
    some = min(fit.bootstraps, 400)
    if some:
        with np.errstate(all="ignore"):
            samples = [{key: values[j] for key, values in fit.samples.items()} for j in range(some)]
            many = np.array([[optimal(v, C)[name] for C in budgets] for v in samples])
        low, high = interval(many)
        ax.fill_between(budgets, low, high, color=color, alpha=0.18, linewidth=0)


def _plain_ticks(ax: Axes) -> None:
    """Over less than a decade a logarithmic axis has readable numbers only where they are plain."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if limits[1] / limits[0] < 20:
            axis.set_major_locator(MaxNLocator(6))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_locator(MaxNLocator(1))
            axis.set_minor_formatter("")
