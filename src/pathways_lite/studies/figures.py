"""The figures of a study and its table of results: losses against cost, differences between arms, lineage."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from pathways_lite.atomic_file import replace_atomically
from pathways_lite.comparison.compare import Arm, Comparison
from pathways_lite.comparison.curves import Clock, Curve
from pathways_lite.comparison.metric import Metric
from pathways_lite.comparison.table import Results
from pathways_lite.intervals import LEVEL, Interval
from pathways_lite.ledger import CostElsewhere
from pathways_lite.studies.measures import Measured
from pathways_lite.studies.store import State
from pathways_lite.studies.study import Node
from pathways_lite.tracking.formatting import si
from pathways_lite.tracking.plot_style import Palette, label_text, line_style

# An axis is logarithmic if its largest value is this many times its smallest.
_LOG_SCALE_RATIO = 30.0
_T_NAMES = {True: "Student's", False: "Welch's"}  # whether runs are paired
_MAX_INSET_LEGEND = 6  # entries of a legend that fits into a plot
_AXIS_LABELS = {
    "flops": "{compute}, {included}",
    "tokens": "training tokens",
    "seconds": "seconds of training",
}


@dataclass(frozen=True)
class StudyFigure:
    """A figure with its texts; `draw` draws it with a theme's palette."""

    name: str  # of its files
    title: str
    alt: str
    caption: str
    draw: Callable[[Palette], Figure]


def loss_figures(arms: Sequence[Arm], metric: Metric) -> list[StudyFigure]:
    """Build the figures of loss against FLOPs, tokens and seconds, without those in which no arm has a line."""
    titles = {"flops": "At equal compute", "tokens": "At equal data", "seconds": "At equal time"}
    captions = {
        "flops": "Mean over seeds at equal FLOPs; the band spans all seeds.",
        "tokens": "The same against training tokens.",
        "seconds": "The same against seconds of training on this machine, without compiling, evaluating and saving; "
        "unlike the others, not reproducible.",
    }

    def make_figure(clock: Clock) -> StudyFigure:
        alt = f"{metric.name} of {', '.join(arm.name for arm in arms)} against {_axis_label(clock, metric, arms)}"
        return StudyFigure(
            f"loss_{clock}", titles[clock], alt, captions[clock], lambda p: _draw_losses(arms, metric, clock, p)
        )

    return [make_figure(c) for c in titles if any(len(align_curves(arm.curves, c)[0]) > 1 for arm in arms)]


def _axis_label(clock: Clock, metric: Metric, arms: Sequence[Arm]) -> str:
    known = all(arm.cost_elsewhere != "unknown" for arm in arms)
    included = "base models included" if known else "spent here: the cost of imported models is unknown"
    return _AXIS_LABELS[clock].format(compute=metric.flops_label, included=included)


def align_curves(curves: Sequence[Curve], clock: Clock) -> tuple[np.ndarray, np.ndarray]:
    """Return costs [n] at which some run has a point, in the range that all runs cover, and losses [runs, n] there."""
    costs = [getattr(curve, clock) for curve in curves]
    start, end = max(cost[0] for cost in costs), min(cost[-1] for cost in costs)
    points = np.unique(np.concatenate(costs))
    grid = points[(points >= start) & (points <= end)]
    losses = [np.interp(np.log(grid), np.log(cost), curve.loss) for cost, curve in zip(costs, curves, strict=True)]
    return grid, np.array(losses)


def _draw_losses(arms: Sequence[Arm], metric: Metric, clock: Clock, palette: Palette) -> Figure:
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    ax = figure.subplots()
    ends = []
    for i, arm in enumerate(arms):
        grid, losses = align_curves(arm.curves, clock)
        if not len(grid):
            continue
        line = line_style(i, palette)
        ax.fill_between(grid, losses.min(axis=0), losses.max(axis=0), color=line["color"], alpha=0.18, linewidth=0)
        every = max(1, len(grid) // 12)
        ax.plot(
            grid,
            losses.mean(axis=0),
            linewidth=1.6,
            markersize=4.5,
            markevery=every,
            label=label_text(arm.name),
            **line,
        )
        ends += [grid[0], grid[-1]]
    if ends and max(ends) > _LOG_SCALE_RATIO * min(ends):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=8))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(EngFormatter(sep=" "))
    ax.set_xlabel(_axis_label(clock, metric, arms))
    ax.set_ylabel(metric.name)
    if len(arms) > _MAX_INSET_LEGEND:
        figure.set_figwidth(9.4)
        figure.legend(loc="outside right upper")
    else:
        ax.legend()
    return figure


# ---- differences ----


def difference_figure(comparisons: Sequence[Comparison], metric: Metric) -> StudyFigure:
    """Build the figure of every arm's difference from the baseline, the best at the top."""
    ordered = sorted(comparisons, key=lambda c: -c.difference.value)
    baseline = comparisons[0].baseline
    alt = "; ".join(f"{c.arm}: {c.difference.value:+.4f}" for c in reversed(ordered))
    caption = "Left is better."
    known = all(comparison.counts_all for comparison in comparisons)
    title = f"At equal {'compute' if known else 'FLOPs spent here'}, against {baseline}"
    return StudyFigure("differences", title, alt, caption, lambda palette: _draw_differences(ordered, metric, palette))


def _draw_differences(ordered: Sequence[Comparison], metric: Metric, palette: Palette) -> Figure:
    figure = Figure(figsize=(7.2, 1.3 + 0.3 * len(ordered)), layout="constrained")
    ax = figure.subplots()
    ax.axvline(0.0, color=palette.ink, linewidth=1.0, label=label_text(f"the baseline, {ordered[0].baseline}"))
    color = palette.series[0]
    for row, c in enumerate(ordered):
        student = (c.t_interval, 1.0, f"{LEVEL:.0%} interval by {_T_NAMES[c.paired]} t")
        bootstrap = (
            Interval(math.nan) if c.by_student else c.difference,
            3.0,
            f"{LEVEL:.0%} interval by the bootstrap",
        )
        for interval, width, label in (student, bootstrap):
            if interval.has_limits:
                ax.plot([interval.low, interval.high], [row, row], color=color, linewidth=width, label=label)
        ax.plot(c.difference.value, row, marker="o", color=color, linestyle="", label="difference of the means")
    entries = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))  # each label once
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=2)
    ax.set_yticks(range(len(ordered)), [label_text(c.arm) for c in ordered])
    ax.set_ylim(-0.6, len(ordered) - 0.4)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"difference from {ordered[0].baseline}: {metric.name}")
    return figure


# ---- lineage ----

LINEAGE = "lineage"
_BOX_SIZE = (2.05, 0.46)  # inches
_GRID_STEP = (2.5, 0.62)


def lineage_figure(
    nodes: Mapping[str, Node],
    states: Mapping[str, State],
    flops: Mapping[str, int],
    costs_elsewhere: Mapping[str, CostElsewhere | None] | None = None,
) -> StudyFigure | None:
    """Build the figure of all nodes, each to the right of the node that it starts from; None where none does.

    A first node that starts from an imported model says by `costs_elsewhere` whether the cost of that one is known.
    """
    if not any(node.parent for node in nodes.values()):
        return None  # a column of boxes
    labels = {identity: node.label for identity, node in nodes.items()}
    alt = "Lineage: " + "; ".join(f"{n.label} after {labels.get(n.parent or '', 'nothing')}" for n in nodes.values())
    caption = (
        "Each box is a stage that is trained once; arrows lead to the stages that start from it. Dashed: not done."
    )
    roots = {identity for identity, node in nodes.items() if node.parent is None}
    elsewhere = {identity: cost for identity, cost in (costs_elsewhere or {}).items() if cost and identity in roots}
    if elsewhere:
        caption += " + unknown, + stated: what a model had cost that was trained elsewhere and imported."
    amounts = {
        identity: si(value, "FLOPs") + (f" + {elsewhere[identity]}" if identity in elsewhere else "")
        for identity, value in flops.items()
    }
    return StudyFigure(LINEAGE, "Lineage", alt, caption, lambda palette: _draw_lineage(nodes, states, amounts, palette))


def layout_nodes(nodes: Mapping[str, Node]) -> dict[str, tuple[int, float]]:
    """Return column and row of every node: leaves one below the other, parents in the middle of their children."""
    children: dict[str | None, list[str]] = {}
    for identity, node in nodes.items():
        children.setdefault(node.parent, []).append(identity)
    positions: dict[str, tuple[int, float]] = {}
    rows = iter(range(len(nodes)))

    def place_subtree(identity: str, column: int) -> float:
        child_rows = [place_subtree(child, column + 1) for child in children.get(identity, [])]
        row = sum(child_rows) / len(child_rows) if child_rows else float(next(rows))
        positions[identity] = (column, row)
        return row

    for root in children.get(None, []):
        place_subtree(root, 0)
    return positions


def _draw_lineage(
    nodes: Mapping[str, Node], states: Mapping[str, State], amounts: Mapping[str, str], palette: Palette
) -> Figure:
    corners = {
        identity: (_GRID_STEP[0] * column, -_GRID_STEP[1] * row)
        for identity, (column, row) in layout_nodes(nodes).items()
    }
    width = max(x for x, _ in corners.values()) + _BOX_SIZE[0]
    height = -min(y for _, y in corners.values()) + _BOX_SIZE[1]
    figure = Figure(figsize=(max(7.2, width + 0.2), height + 0.2))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set_xlim(-0.1, max(7.1, width + 0.1))
    ax.set_ylim(-height + _BOX_SIZE[1] / 2 - 0.1, _BOX_SIZE[1] / 2 + 0.1)
    for identity, node in nodes.items():
        if node.parent is not None:
            (x0, y0), (x1, y1) = corners[node.parent], corners[identity]
            middle = (x0 + _BOX_SIZE[0] + x1) / 2
            ax.plot([x0 + _BOX_SIZE[0], middle, middle, x1], [y0, y0, y1, y1], color=palette.faint, linewidth=1.0)
            ax.plot(x1 - 0.05, y1, marker=">", markersize=5, color=palette.faint)
        _draw_box(ax, corners[identity], node.label, f"{amounts[identity]}, {states[identity]}", palette)
    return figure


def _draw_box(ax: Axes, corner_xy: tuple[float, float], title: str, text: str, palette: Palette) -> None:
    x, y = corner_xy
    done = text.endswith("done")
    style = "-" if done else (0, (4, 2))
    corner = (x, y - _BOX_SIZE[1] / 2)
    ax.add_patch(
        FancyBboxPatch(
            corner,
            *_BOX_SIZE,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=palette.grid if done else "none",
            edgecolor=palette.ink,
            linewidth=0.9,
            linestyle=style,
        )
    )
    ax.text(x + 0.1, y + 0.09, title, fontsize=8.5, va="center", color=palette.ink, clip_on=True)
    ax.text(x + 0.1, y - 0.11, text, fontsize=7.5, va="center", color=palette.faint)


# ---- results as CSV, for other programs ----

CSV_HEADER = (
    "held_out", "arm", "baseline", "runs", "loss", "flops", "difference", "low", "high", "interval",
    "speedup", "speedup_low", "speedup_high", "area", "area_low", "area_high", "value_low", "value_high",
    "target", "cost_elsewhere",
)  # fmt: skip
"""`held_out`: the domain, empty for all text, or the name of a measure, whose mean is in `loss`. `loss`: at the end of
a run, mean over runs. `difference`: from the baseline at `flops`, with its 95 % interval (`interval`: student, over
pairs of runs, or welch, over unpaired ones). Speedup and area have those of the page. `value_low`, `value_high`:
Student's interval of a measure's mean. `target`: the loss of the speedup. `cost_elsewhere`: "unknown" where `flops` and
the speedup are of the FLOPs spent here, as an imported model's cost elsewhere is unknown; "stated" where they include
it. Unknown values are empty."""


def write_csv(
    path: Path, results: Results | None, by_domain: Mapping[str, Results], measured: Sequence[Measured] = ()
) -> None:
    """Write a row per arm, for all held-out text first, then by domain and measure; at least the header."""
    with replace_atomically(path, shared=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_HEADER)
        if results is not None:
            writer.writerows(csv_rows("", results))
        for domain, domain_results in by_domain.items():
            writer.writerows(csv_rows(domain, domain_results))
        for m in measured:
            interval = Interval(math.nan) if m.difference is None else m.difference
            kind = "" if m.difference is None else "student"
            row = [m.measure, m.arm, m.baseline, m.runs, m.value.value, ""]
            cells = [*row, interval.value, interval.low, interval.high, kind]
            limits = [m.value.low, m.value.high]
            empty = [""] * (CSV_HEADER.index("value_low") - len(cells))
            writer.writerow([*map(_cell, cells), *empty, *map(_cell, limits), "", ""])


def csv_rows(domain: str, results: Results) -> Iterator[list[object]]:
    """Yield a row per arm, with the columns of `CSV_HEADER`."""
    by_arm = {comparison.arm: comparison for comparison in results.comparisons}
    for arm in results.arms:
        row: list[object] = [domain, arm.name, results.baseline, len(arm.curves), arm.final_loss]
        if (c := by_arm.get(arm.name)) is not None:
            kind, interval = ("student" if c.paired else "welch"), c.t_interval
            row += [c.flops, c.difference.value, interval.low, interval.high, kind]
            row += [value for i in (c.speedup, c.area) for value in (i.value, i.low, i.high)]
            row += ["", "", c.target]
        elsewhere = arm.cost_elsewhere if c is None else c.cost_elsewhere
        yield [*map(_cell, row), *[""] * (len(CSV_HEADER) - len(row) - 1), elsewhere or ""]


def _cell(value: object) -> object:
    """Return the value as it is written: unknown ones are empty."""
    return "" if isinstance(value, float) and math.isnan(value) else value
