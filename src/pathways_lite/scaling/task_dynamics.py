"""How tasks develop over checkpoints: trends, noise, early predictions of a ranking, likeness of sizes.

The statistics of The Fine Line (arXiv 2404.01204), for accuracy and for continuous scores beside it. A table has a row
per checkpoint and task (`evaluate --tasks --along`): run, task, D, held_out_loss, and the metrics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pathways_lite.scaling.table import Table

METRICS: Mapping[str, int] = {"accuracy": 1, "log_p": 1, "L": -1, "p": 1, "brier": -1}
"""Metrics that are compared, and whether more is better; L is nats per byte of the right answer."""

FRACTIONS = (0.1, 0.25, 0.5, 0.75)
"""Of a run's tokens, at which its end is predicted."""

LAST = 5  # checkpoints whose scatter is the noise


@dataclass(frozen=True)
class Curve:
    """A metric of one run over its checkpoints: tokens [n], held-out loss [n] (NaN where unknown), values [n]."""

    D: np.ndarray
    loss: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Statistic:
    """What the curves of one metric of one task say.

    Attributes:
      trend: mean over runs of Spearman's rank correlation with ln D; of a metric of which less is better, of its
        negative.
      signal_to_noise: mean over runs of `signal_to_noise`.
      early: by fraction of the tokens, Kendall's tau of the ranking of runs then and at the end; NaN for two runs.
      chance_tau: what |tau| exceeds in 5 % of random rankings of so many runs.
      same_tokens, same_loss: mean over pairs of runs of `similarity` at equal tokens, and at equal held-out loss.
    """

    task: str
    metric: str
    runs: int
    trend: float
    signal_to_noise: float
    early: dict[float, float]
    chance_tau: float
    same_tokens: float
    same_loss: float


@dataclass(frozen=True)
class Dynamics:
    """The statistics of every task and metric, and `unseen`: by task, the error of a prediction from its relatives."""

    statistics: tuple[Statistic, ...]
    unseen: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return `tasks`, a list, and `unseen`."""
        return {"tasks": [asdict(statistic) for statistic in self.statistics], "unseen": self.unseen}


def task_dynamics(table: Table) -> Dynamics:
    """Compute all statistics of a table."""
    tasks = list(dict.fromkeys(map(str, table["task"])))
    statistics = [
        _statistic(task, metric, list(curves_of(table, task, metric).values()))
        for task in tasks
        for metric in metrics_of(table, task)
    ]
    return Dynamics(
        tuple(statistics), {task: error for task in tasks if np.isfinite(error := unseen_error(table, task))}
    )


def metrics_of(table: Table, task: str) -> list[str]:
    """Return the metrics that a task has: lm-evaluation-harness has tasks without an accuracy, or nothing else."""
    rows = table["task"] == task
    return [name for name in METRICS if name in table and np.isfinite(np.asarray(table[name][rows], np.float64)).any()]


def curves_of(table: Table, task: str, metric: str) -> dict[str, Curve]:
    """Return the curves of a metric of a task by run, checkpoints by their tokens."""
    curves = {}
    of_task = table["task"] == task
    for run in dict.fromkeys(map(str, table["run"][of_task])):
        rows = np.flatnonzero(of_task & (table["run"] == run))
        rows = rows[np.argsort(table["D"][rows], kind="stable")]
        curves[run] = Curve(*(np.asarray(table[name][rows], np.float64) for name in ("D", "held_out_loss", metric)))
    return curves


def _statistic(task: str, metric: str, curves: Sequence[Curve]) -> Statistic:
    sign = METRICS[metric]
    pairs = list(itertools.combinations(curves, 2))
    return Statistic(
        task, metric, len(curves),
        trend=_mean([sign * rank_correlation(curve.D, curve.values) for curve in curves]),
        signal_to_noise=_mean([signal_to_noise(sign * curve.values) for curve in curves]),
        early={fraction: early_prediction(curves, fraction) for fraction in FRACTIONS},
        chance_tau=chance_tau(len(curves)),
        same_tokens=_mean([similarity((np.log(a.D), a.values), (np.log(b.D), b.values)) for a, b in pairs]),
        same_loss=_mean([similarity((a.loss, a.values), (b.loss, b.values)) for a, b in pairs]),
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the numbers among values; NaN without any."""
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


# ---- statistics of curves ----


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's rank correlation; NaN below three points, or where one does not vary."""
    from scipy import stats

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(stats.spearmanr(x, y).statistic)


def signal_to_noise(values: np.ndarray) -> float:
    """Return (last - first) / the standard deviation of the last five; NaN where there are fewer, or no noise.

    A trend within the last five counts as noise: a line of n points has (n - 1) / sqrt(2.5).
    """
    if len(values) < LAST or (noise := np.std(values[-LAST:], ddof=1)) == 0:
        return math.nan
    return float((values[-1] - values[0]) / noise)


def early_prediction(curves: Sequence[Curve], fraction: float) -> float:
    """Return Kendall's tau-b of two rankings of runs: at a fraction of each one's tokens, and at its end.

    A run's value at the fraction is that of its last checkpoint up to there; runs without one are left out. NaN for
    fewer than three runs, or where all are equal.
    """
    from scipy import stats

    then, end = [], []
    for curve in curves:
        before = np.flatnonzero(fraction * curve.D[-1] >= curve.D)
        if len(before):
            then.append(curve.values[before[-1]])
            end.append(curve.values[-1])
    if len(then) < 3 or np.ptp(then) == 0 or np.ptp(end) == 0:
        return math.nan
    return float(stats.kendalltau(then, end).statistic)


def chance_tau(runs: int) -> float:
    """Return what |tau| of random rankings exceeds in 5 % of cases, by its normal limit (Kendall 1938)."""
    return 1.96 * math.sqrt(2 * (2 * runs + 5) / (9 * runs * (runs - 1))) if runs > 2 else math.nan


def similarity(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """Return Pearson's correlation of two curves (x, y) at equal x, which is the same for curves that are scaled.

    The curve with fewer points is read where it has them, the other one between its points; only where both are. NaN
    below three points, or where a curve is flat there.
    """
    (xa, ya), (xb, yb) = (_sorted(*curve) for curve in sorted((a, b), key=lambda curve: len(curve[0])))
    if not len(xa) or not len(xb):
        return math.nan
    inside = (xa >= xb[0]) & (xa <= xb[-1])
    left, right = ya[inside], np.interp(xa[inside], xb, yb)
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return math.nan
    return float(np.corrcoef(left, right)[0, 1])


def _sorted(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the known points of a curve by ascending x."""
    known = np.isfinite(x) & np.isfinite(y)
    order = np.argsort(x[known], kind="stable")
    return x[known][order], y[known][order]


def unseen_error(table: Table, task: str) -> float:
    """Return the mean error of a task's accuracy above chance, predicted as the mean of the other tasks of its family.

    It is taken at each checkpoint that has them, and accuracies above chance are (accuracy - chance) / (1 - chance).
    NaN where there are no others.
    """
    above = (table["accuracy"] - table["chance"]) / (1 - table["chance"])
    family = task.partition(":")[0]
    others = [
        other for other in dict.fromkeys(map(str, table["task"])) if other != task and other.split(":")[0] == family
    ]
    by_checkpoint = {name: dict(zip(table["digest"][rows], above[rows], strict=True)) for name in (task, *others)
                     for rows in [table["task"] == name]}  # fmt: skip
    errors = []
    for checkpoint, value in by_checkpoint[task].items():
        known = [by_checkpoint[other][checkpoint] for other in others if checkpoint in by_checkpoint[other]]
        if known:
            errors.append(abs(value - np.mean(known)))
    return float(np.mean(errors)) if errors else math.nan
