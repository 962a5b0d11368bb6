"""The page of tasks over checkpoints: curves of accuracy and of ln p, and what the statistics say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.intervals import Interval
from pathways_lite.run_directory import node_label
from pathways_lite.scaling.early_ranking import EarlyRanking
from pathways_lite.scaling.plots import set_log_scale
from pathways_lite.scaling.table import Table
from pathways_lite.scaling.task_dynamics import FRACTIONS, LAST, Dynamics, curves_of, metrics_of
from pathways_lite.tracking.page import page, paragraph, picture, section, table
from pathways_lite.tracking.plot_style import Palette, Theme, label_text, line_style, style, to_svg

HEADER = (
    "task",
    "metric",
    "runs",
    "trend",
    "S/N",
    *(f"tau at {fraction:.0%}" for fraction in FRACTIONS),
    "same D",
    "same loss",
)
EARLY_HEADER = ("task", "metric", *(f"tau with accuracy, {fraction:.0%}" for fraction in FRACTIONS))
_MOST_RUNS = 10  # in the legend
_DECADE = 10  # of tokens, from which on their axis is logarithmic: shorter ones have hardly a label
_FALLEN = 0.9  # of the highest learning rate, below which a run is being annealed
_DRAWN = {"accuracy": "accuracy", "log_p": "ln p of the right answer", "L": "nats per byte"}

_MEANING = (
    "Trend: Spearman's correlation with ln D. S/N: (last - first) over the standard deviation of the last "
    f"{LAST} checkpoints, in which a trend counts as noise. Tau: Kendall's, of the ranking of runs at a share of their "
    "tokens and at the end. Same D, same loss: Pearson's correlation of two runs at equal tokens, and at equal "
    "held-out loss. Means over runs and pairs; L and the Brier score count negatively. "
    "Choose a metric before its end is seen."
)


def write_task_report(measured: Table, dynamics: Dynamics, early: Sequence[EarlyRanking], path: Path) -> Path:
    """Write the page to `path`, and return it."""
    write_text_atomically(path, render(measured, dynamics, early), shared=True)
    return path


def render(measured: Table, dynamics: Dynamics, early: Sequence[EarlyRanking]) -> str:
    """Render the page as HTML; all text is escaped, and nothing outside the page is loaded."""
    checkpoints, runs = len(set(measured["digest"])), len(set(measured["run"]))
    tasks = list(dict.fromkeys(map(str, measured["task"])))
    lead = f"{len(tasks)} tasks at {checkpoints} checkpoints of {runs} {'run' if runs == 1 else 'runs'}."
    figures = [
        picture(
            curves_svg(measured, task, "light"), curves_svg(measured, task, "dark"),
            alt=f"{' and '.join(_drawn(measured, task).values())} of {task} over training tokens, a line for each run",
            caption=_caption(measured, task),
        )
        for task in tasks
    ]  # fmt: skip
    body = (
        f"<header>\n<h1>Tasks along training</h1>\n{paragraph(lead, 'lead')}\n</header>\n",
        section("Curves", *figures),
        section(
            "Which metric tells early",
            table(list(HEADER), statistic_rows(dynamics)), paragraph(_note(dynamics), "note"),
        ),
        _early_section(early),
        section("Tasks from their relatives", _unseen_table(dynamics)) if dynamics.unseen else "",
    )  # fmt: skip
    return page("Tasks along training", "".join(body))


def statistic_rows(dynamics: Dynamics) -> list[list[str]]:
    """Return the statistics as rows of text under `HEADER`."""
    return [
        [
            each.task, each.metric, f"{each.runs}", _number(each.trend), _number(each.signal_to_noise, 1),
            *(_number(each.early[fraction]) for fraction in FRACTIONS),
            _number(each.same_tokens), _number(each.same_loss),
        ]
        for each in dynamics.statistics
    ]  # fmt: skip


def early_rows(early: Sequence[EarlyRanking]) -> list[list[str]]:
    """Return how metrics rank runs early as rows of text under `EARLY_HEADER`."""
    cells: dict[tuple[str, str], dict[float, str]] = {}
    for each in early:
        cells.setdefault((each.task, each.metric), {})[each.fraction] = _with_limits(each.tau)
    return [[*key, *(of.get(fraction, "–") for fraction in FRACTIONS)] for key, of in cells.items()]


def _early_section(early: Sequence[EarlyRanking]) -> str:
    if not early:
        return ""
    text = (
        "Kendall's tau of the ranking of runs by a metric at a share of their tokens with their ranking by accuracy at "
        "the end; 95 % intervals resample runs. A metric that is equal for all runs has 0."
    )
    return section("Which metric foretells accuracy", table(list(EARLY_HEADER), early_rows(early)), paragraph(text))


def _with_limits(interval: Interval) -> str:
    limits = f" ({interval.low:.2f}, {interval.high:.2f})" if interval.has_limits else ""
    return _number(interval.value) + limits


def _note(dynamics: Dynamics) -> str:
    limits = sorted({(each.runs, each.chance_tau) for each in dynamics.statistics if math.isfinite(each.chance_tau)})
    sentences = (f"Of {n} runs |tau| is below {limit:.2f} in 95 % of random rankings." for n, limit in limits)
    return " ".join([_MEANING, *sentences])


def _unseen_table(dynamics: Dynamics) -> str:
    rows = [[task, f"{error:.3f}"] for task, error in dynamics.unseen.items()]
    caption = (
        "Mean error of (accuracy - chance) / (1 - chance), taken to be the mean of the family's other tasks at the "
        "same checkpoint."
    )
    return table(["task", "error"], rows, caption=caption)


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _caption(measured: Table, task: str) -> str:
    rows = measured["task"] == task
    items = int(measured["items"][rows][0])
    caption = f"{task}: {items:,} items, bars: a standard error."
    if np.nanmax([0.0, *_chances(measured, task)]) > 0:
        caption += " Dashed: chance."
    return (
        f"{caption} Ringed: the learning rate has fallen below {_FALLEN:.0%} of its highest."
        if _is_annealed(measured).any()
        else caption
    )


def _is_annealed(measured: Table) -> np.ndarray:
    """Return which rows are of a time in which their run's learning rate has fallen from its highest."""
    rates = np.asarray(measured["learning_rate"], np.float64)
    result = np.zeros(len(rates), bool)
    for run in set(measured["run"]):
        rows = np.flatnonzero(measured["run"] == run)
        if not np.isfinite(rates[rows]).any():
            continue
        highest = rows[np.nanargmax(rates[rows])]
        later = measured["D"][rows] > measured["D"][highest]
        result[rows] = later & (rates[rows] < _FALLEN * rates[highest])
    return result


def curves_svg(measured: Table, task: str, theme: Theme) -> str:
    """Render accuracy and ln p of a task over tokens, a line for each run, as SVG text."""
    with style(theme) as palette:
        drawn = _drawn(measured, task)
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        axes = figure.subplots(1, len(drawn), squeeze=False)[0]
        for ax, (metric, label) in zip(axes, drawn.items(), strict=True):
            _draw(ax, measured, task, metric, palette)
            ax.set_ylabel(label)
        if len(set(measured["run"])) > 1:
            axes[0].legend()
        return to_svg(figure)


def _drawn(measured: Table, task: str) -> dict[str, str]:
    """Return the metrics that are drawn of a task, with their labels: its loss only where there is nothing else."""
    known = metrics_of(measured, task)
    drawn = {metric: label for metric, label in _DRAWN.items() if metric in known}
    return {metric: label for metric, label in drawn.items() if metric != "L" or len(drawn) == 1}


def _chances(measured: Table, task: str) -> np.ndarray:
    return np.asarray(measured["chance"][measured["task"] == task], np.float64)


def _short_names(measured: Table) -> dict[str, str]:
    """Return the directories' own names where they tell the runs apart, and their paths elsewhere."""
    runs = list(dict.fromkeys(map(str, measured["run"])))
    names = {run: node_label(Path(run)) or Path(run).name for run in runs}
    return names if len(set(names.values())) == len(runs) else {run: run for run in runs}


def _draw(ax: Axes, measured: Table, task: str, metric: str, palette: Palette) -> None:
    annealed, names = _is_annealed(measured), _short_names(measured)
    for i, (run, curve) in enumerate(curves_of(measured, task, metric).items()):
        rows = np.flatnonzero((measured["task"] == task) & (measured["run"] == run))
        rows = rows[np.argsort(measured["D"][rows], kind="stable")]
        look = {**line_style(i, palette), "markersize": 4, "linewidth": 1.4}
        errors = measured[f"{metric}_se"][rows]
        label = label_text(names[run]) if i < _MOST_RUNS else "_"
        ax.errorbar(curve.D, curve.values, np.nan_to_num(errors), label=label, elinewidth=0.7, **look)
        ax.plot(curve.D[annealed[rows]], curve.values[annealed[rows]], linestyle="", marker="o", markersize=8,
                markerfacecolor="none", markeredgecolor=look["color"])  # fmt: skip
    chance = _chances(measured, task)[0]
    if metric == "accuracy":
        if chance > 0:
            ax.axhline(float(chance), color=palette.faint, linewidth=0.9, linestyle="--")
        ax.set_ylim(bottom=-0.02)  # points at 0 are seen
    D = measured["D"][np.isfinite(measured["D"])]
    if len(D) and D.min() > 0 and D.max() > _DECADE * D.min():
        set_log_scale(ax, "x", counts="x")
    else:
        ax.xaxis.set_major_formatter(EngFormatter(sep=" "))
    ax.set_xlabel("tokens")
