"""The report of a ladder: its page and its figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from pathways_lite.scaling.ladder import Ladder
from pathways_lite.scaling.plots import set_log_scale
from pathways_lite.scaling.report import write_report
from pathways_lite.scaling.solver import predict
from pathways_lite.tracking.formatting import si
from pathways_lite.tracking.page import paragraph, picture, section
from pathways_lite.tracking.plot_style import Palette, line_style, save_figure, style, to_svg

STAR_OFFSET = 11  # points by which the measurement stands beside the bar of its prediction


def write_ladder_report(ladder: Ladder, folder: Path) -> list[Path]:
    """Write ladder.json (the fit), ladder.html and ladder.png into `folder`, and return their paths."""
    paths = [folder / f"ladder.{suffix}" for suffix in ("json", "html", "png")]
    ladder.fit.save(paths[0])
    figures = []
    for theme in ("light", "dark"):
        with style(theme) as palette:
            figures.append(to_svg(draw_ladder(ladder, palette)))
    caption = "Points: runs. Lines: the law at their sizes. Bars: 95 % intervals of the law (thick) and of a forecast."
    paragraphs = [paragraph(sentence, "verdict") for sentence in ladder.sentences()]
    figure = picture(*figures, alt="Loss of the rungs, and of the run that they predict", caption=caption)
    write_report(ladder.fit, paths[1], first=section("The run to predict", *paragraphs, figure))
    with style("light") as palette:
        save_figure(draw_ladder(ladder, palette), paths[2])
    return paths


def draw_ladder(ladder: Ladder, palette: Palette) -> Figure:
    """Plot the target over the law's last input (tokens), a line per value of the first (size), and the prediction."""
    fit, law = ladder.fit, ladder.fit.law
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    ax = figure.subplots()
    size_name, x_name = law.inputs[0], law.inputs[-1]
    sizes = np.unique(fit.data[size_name]).tolist() if size_name != x_name else []
    x_min, x_max = float(fit.data[x_name].min()), max(float(fit.data[x_name].max()), ladder.goal_inputs[x_name])
    grid = np.geomspace(x_min, x_max, 60)
    for i, size in enumerate([*sizes, ladder.goal_inputs[size_name]]):
        is_goal = i == len(sizes)
        columns = {name: np.full(60, ladder.goal_inputs[name]) for name in law.inputs}
        columns |= {size_name: np.full(60, size), x_name: grid}
        # The goal's line may lie on that of a rung of its size: wider and above it, it is seen on both sides.
        goal_line = {"color": palette.ink, "linestyle": (0, (1, 1.5)), "linewidth": 2.4, "zorder": 4}
        line = goal_line if is_goal else {**line_style(i, palette), "marker": "", "linewidth": 1.2}
        label = f"law at {size_name} = {si(size)}, to predict" if is_goal else None
        ax.plot(grid, predict(law, fit.values, columns), label=label, **line)
        if not is_goal:
            rows = fit.data[size_name] == size
            points = {**line_style(i, palette), "linestyle": ""}
            ax.plot(fit.data[x_name][rows], fit.data[law.target][rows], label=f"{size_name} = {si(size)}", **points)
    goal_x, predicted = ladder.goal_inputs[x_name], ladder.predicted
    error_bars = [[predicted.value - predicted.low], [predicted.high - predicted.value]]
    ax.errorbar(
        [goal_x], [predicted.value], error_bars, color=palette.ink, marker="_", capsize=5, markersize=12, linestyle="",
        label="predicted", elinewidth=3, zorder=5,
    )  # fmt: skip
    if ladder.of_forecast.has_limits:
        ax.vlines([goal_x], [ladder.of_forecast.low], [ladder.of_forecast.high], color=palette.ink, linewidth=1)
    if ladder.measured is not None:
        beside = ScaledTranslation(STAR_OFFSET / 72, 0, figure.dpi_scale_trans)
        ax.plot(
            [goal_x], [ladder.measured], "*", color=palette.series[1], markersize=12, label="measured", zorder=6,
            transform=ax.transData + beside,
        )  # fmt: skip
    set_log_scale(ax)
    ax.set(xlabel=x_name, ylabel=law.target)
    ax.legend()
    return figure
