"""A ladder as a page and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pathways_lite.scaling.ladder import Ladder
from pathways_lite.scaling.plots import set_log_scale
from pathways_lite.scaling.report import write_report
from pathways_lite.scaling.solver import predict
from pathways_lite.tracking.formatting import si
from pathways_lite.tracking.page import paragraph, picture, section
from pathways_lite.tracking.plot_style import Palette, line_style, style, to_svg


def write_ladder(ladder: Ladder, folder: Path) -> list[Path]:
    """Write ladder.json (the fit), ladder.html and ladder.png into `folder`; returns where they are."""
    paths = [folder / f"ladder.{suffix}" for suffix in ("json", "html", "png")]
    ladder.fit.save(paths[0])
    drawn = []
    for theme in ("light", "dark"):
        with style(theme) as palette:
            drawn.append(to_svg(draw_ladder(ladder, palette)))
    caption = "Points: runs. Lines: the law at their sizes. The bar is the prediction's 95 % interval."
    words = [paragraph(sentence, "verdict") for sentence in ladder.sentences()]
    shown = picture(*drawn, alt="Loss of the rungs, and of the run they predict", caption=caption)
    write_report(ladder.fit, paths[1], first=section("The run to predict", *words, shown))
    with style("light") as palette:
        draw_ladder(ladder, palette).savefig(paths[2], dpi=160, facecolor="white")
    return paths


def draw_ladder(ladder: Ladder, palette: Palette) -> Figure:
    """The target over the law's last input (tokens), a line for each value of the first (size), and the prediction."""
    fit, law = ladder.fit, ladder.fit.law
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    ax = figure.subplots()
    line, along = law.inputs[0], law.inputs[-1]
    sizes = np.unique(fit.data[line]).tolist() if line != along else []
    first, last = float(fit.data[along].min()), max(float(fit.data[along].max()), ladder.goal_inputs[along])
    grid = np.geomspace(first, last, 60)
    for i, size in enumerate([*sizes, ladder.goal_inputs[line]]):
        goal = i == len(sizes)
        columns = {name: np.full(60, ladder.goal_inputs[name]) for name in law.inputs} | {
            line: np.full(60, size),
            along: grid,
        }
        shape = (
            {**line_style(i, palette), "marker": ""} if not goal else {"color": palette.ink, "linestyle": (0, (1, 1.5))}
        )
        ax.plot(grid, predict(law, fit.values, columns), linewidth=1.2, **shape)
        if not goal:
            rows = fit.data[line] == size
            shape = {**line_style(i, palette), "linestyle": ""}
            ax.plot(fit.data[along][rows], fit.data[law.target][rows], label=f"{line} = {si(size)}", **shape)
    at, p = ladder.goal_inputs[along], ladder.predicted
    ax.errorbar(
        [at], [p.value], [[p.value - p.low], [p.high - p.value]], color=palette.ink, marker="_", capsize=5,
        markersize=12, linestyle="", label=f"predicted, {line} = {si(ladder.goal_inputs[line])}",
    )  # fmt: skip
    if ladder.measured is not None:
        ax.plot([at], [ladder.measured], "*", color=palette.series[1], markersize=13, label="measured")
    set_log_scale(ax)
    ax.set(xlabel=along, ylabel=law.target)
    ax.legend()
    return figure
