"""Which metric of a task, measured early, ranks runs as their accuracy does in the end.

Kendall's tau-b of the two rankings, with intervals that resample runs. A metric that is 0 for all runs ranks nothing:
its tau is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pathways_lite.intervals import Interval
from pathways_lite.scaling.bootstrap import bootstrap_limits, resample_weights
from pathways_lite.scaling.table import Table
from pathways_lite.scaling.task_dynamics import FRACTIONS, METRICS, Curve, curves_of

RESAMPLES = 2000
ALL_TASKS = "all tasks"

_METRICS = {**METRICS, "held_out_loss": -1}


@dataclass(frozen=True)
class EarlyRanking:
    """How a metric at a fraction of the tokens ranks runs.

    Attributes:
      task: its name, or `ALL_TASKS` for the mean over tasks.
      runs: how many have a checkpoint by then.
      tau: with the ranking by accuracy at the end.
      over_accuracy: what that is more than the tau of accuracy at the same fraction; resampled together.
    """

    task: str
    metric: str
    fraction: float
    runs: int
    tau: Interval
    over_accuracy: Interval


def early_rankings(table: Table) -> list[EarlyRanking]:
    """Compute all rankings of a table of `evaluate --tasks --along`; tasks on which runs end equal are left out."""
    tasks = list(dict.fromkeys(map(str, table["task"])))
    metrics = [metric for metric in _METRICS if metric in table]
    found = []
    for fraction in FRACTIONS:
        by_task = {}
        for task in tasks:
            curves = {metric: curves_of(table, task, metric) for metric in metrics}
            if (taus := _taus(curves, fraction)) is not None:
                by_task[task] = taus
        runs = {taus.runs for taus in by_task.values()}
        if len(by_task) > 1 and len(runs) == 1:  # the same resamples of the same runs
            means = {metric: np.mean([taus.drawn[metric] for taus in by_task.values()], axis=0) for metric in metrics}
            by_task[ALL_TASKS] = _Taus(runs.pop(), means)
        found += [
            EarlyRanking(
                task, metric, fraction, taus.runs, _interval(drawn), _interval(drawn - taus.drawn["accuracy"])
            )
            for task, taus in by_task.items()
            for metric, drawn in taus.drawn.items()
        ]  # fmt: skip
    return found


@dataclass(frozen=True)
class _Taus:
    """By metric the tau of all runs, and after it those of resamples [1 + resamples]."""

    runs: int
    drawn: dict[str, np.ndarray]


def _taus(curves: dict[str, dict[str, Curve]], fraction: float) -> _Taus | None:
    """Return None for fewer than three runs, or where all end equal."""
    ends = curves["accuracy"]
    before = {run: np.flatnonzero(fraction * curve.D[-1] >= curve.D) for run, curve in ends.items()}
    runs = [run for run, places in before.items() if len(places)]
    end = np.array([ends[run].values[-1] for run in runs])
    if len(runs) < 3 or np.ptp(end) == 0:
        return None
    weights = np.vstack([np.ones(len(runs)), resample_weights(len(runs), RESAMPLES, 0, None)])
    drawn = {}
    for metric, by_run in curves.items():
        then = np.array([by_run[run].values[before[run][-1]] for run in runs])
        drawn[metric] = weighted_tau(_METRICS[metric] * then, end, weights)
    return _Taus(len(runs), drawn)


def weighted_tau(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b [resamples] of two rankings [n] that are weighted [resamples, n]; 0 where one is all ties.

    A weight of 2 is that of two equal items, which are a tie.
    """
    signs_a, signs_b = (np.sign(values[:, None] - values) for values in (a, b))
    products = [
        np.einsum("ri,ij,rj->r", weights, pairs, weights)
        for pairs in (signs_a * signs_b, np.abs(signs_a), np.abs(signs_b))
    ]
    both, of_a, of_b = products
    scale = np.sqrt(of_a * of_b)
    return np.divide(both, scale, out=np.zeros_like(both), where=scale > 0)


def _interval(drawn: np.ndarray) -> Interval:
    if not math.isfinite(drawn[0]):
        return Interval(math.nan)
    low, high = bootstrap_limits(drawn[1:])
    return Interval(float(drawn[0]), float(low), float(high))
