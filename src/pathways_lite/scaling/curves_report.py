"""The files of a fit of loss curves: JSON, and a figure of every curve with its prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pathways_lite.run_directory import write_json
from pathways_lite.scaling.curves import Curve, CurveFit
from pathways_lite.tracking.plot_style import Palette, label_text, save_figure, style

FORMAT = 1
COLUMNS = 3


def write_curves_report(fit: CurveFit, curves: Sequence[Curve], path: Path) -> list[Path]:
    """Write the fit as JSON to `path`, and a figure beside it; return their paths."""
    write_json(path, {
        "format": FORMAT, "kind": "curves", "law": fit.law.name, "formula": fit.law.formula, "source": fit.law.source,
        "momentum": fit.momentum, "values": fit.solution.values, "objective": fit.solution.objective,
        "starts": fit.solution.starts, "reached": fit.solution.reached, "notes": list(fit.notes),
        "curves": [
            {**asdict(error), "step": curve.steps.tolist(), "loss": curve.losses.tolist(),
             "predicted": fit.predictions[curve.name].tolist()}
            for error, curve in zip(fit.errors, curves, strict=True)
        ],
    })  # fmt: skip
    picture = path.with_suffix(".png")
    with style("light") as palette:
        save_figure(draw_curves(fit, curves, palette), picture)
    return [path, picture]


def draw_curves(fit: CurveFit, curves: Sequence[Curve], palette: Palette) -> Figure:
    """Draw a panel per curve: losses, the law, and the learning rate below."""
    columns = min(COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    losses = np.concatenate([curve.losses for curve in curves])
    low, high = float(losses.min()), float(losses.max())
    low, high = low - 0.25 * (high - low), high + 0.03 * (high - low)
    peak = max(curve.rates.max() for curve in curves)
    for ax in axes[len(curves) :]:
        ax.set_axis_off()
    for ax, curve, error in zip(axes[: len(curves)], curves, fit.errors, strict=True):
        color = palette.series[0 if error.role == "fit" else 1]
        ax.plot(curve.steps, curve.losses, "o", color=palette.faint, markersize=2.5, label="measured")
        word = "fitted" if error.role == "fit" else "predicted"
        ax.plot(curve.steps, fit.predictions[curve.name], color=color, linewidth=1.4, label=word)
        every = max(1, len(curve.rates) // 500)
        steps = np.arange(len(curve.rates))[::every]
        heights = 0.18 * (high - low) * curve.rates[::every] / peak
        ax.fill_between(steps, low, low + heights, color=palette.grid, zorder=0)
        ax.set_ylim(low, high)
        ax.set_title(f"{_short(label_text(curve.name))}\n{error.mean:.2%}, worst {error.worst:.2%}", fontsize=8.5)
        ax.set_xlabel("step (gray: learning rate)", fontsize=8.5)
        ax.legend(fontsize=8)
    for ax in axes[::columns]:
        ax.set_ylabel("loss")
    return figure


def _short(name: str, most: int = 36) -> str:
    """Return the end of a long name: names of files begin alike."""
    return name if len(name) <= most else "…" + name[1 - most :]
