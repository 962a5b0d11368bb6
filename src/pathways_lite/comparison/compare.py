"""Two arms at equal compute and at equal loss, with intervals over their runs.

Everything is read off the arms' mean curves (loss averaged over runs at equal FLOPs, interpolated linearly in log
FLOPs), whose FLOPs include the models that a run started from.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pathways_lite.comparison.bootstrap import Interval, bootstrap, student
from pathways_lite.comparison.curves import Curve, common_grid, first_crossing


@dataclass(frozen=True)
class Arm:
    """A way of training, and its runs."""

    name: str
    curves: tuple[Curve, ...]

    @property
    def seeds(self) -> list[int]:
        return [curve.seed for curve in self.curves]

    @property
    def final_loss(self) -> float:
        """Mean over runs."""
        return statistics.fmean(float(curve.loss[-1]) for curve in self.curves)


@dataclass(frozen=True)
class Comparison:
    """An arm against a baseline."""

    arm: str
    baseline: str
    flops: float  # the most that every run of both has spent: where "equal compute" is
    target: float  # the loss at which compute is compared
    difference: Interval  # of loss at equal compute, arm - baseline: negative is better
    student: Interval | None  # the same by Student's t over pairs; None where runs are no pairs
    speedup: Interval  # FLOPs(baseline) / FLOPs(arm) - 1 at the target; above 0 is better
    area: Interval  # mean difference of loss over log FLOPs
    paired: bool
    longer: float  # the largest compute of any run over `flops`; well above 1: schedules were for different budgets


def compare(arm: Arm, baseline: Arm, target: float | None = None) -> Comparison:
    """Compare two arms.

    Args:
        target: loss for the speedup; None: the larger of both arms' mean losses at equal compute, to which both come,
            found anew in every resample.

    Runs with the same seed are pairs where both arms have exactly the same seeds, each once.

    Speedup as in G_stack (Du et al. 2024, arXiv 2405.15319, equation 48): FLOPs of the baseline over FLOPs of the arm
    at equal loss, less 1.
    """
    a, b = list(arm.curves), list(baseline.curves)
    paired = sorted(arm.seeds) == sorted(baseline.seeds) and len(set(arm.seeds)) == len(a)
    if paired:
        a, b = (sorted(curves, key=lambda curve: curve.seed) for curves in (a, b))
    grid = common_grid([*a, *b])
    losses_a, losses_b = (np.array([curve.at(grid) for curve in curves]) for curves in (a, b))  # [runs, grid]
    last_a, last_b = losses_a[:, -1], losses_b[:, -1]

    def over_runs(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
        """`statistic` of the two arms' mean curves on the grid."""
        return bootstrap(
            lambda i, j: statistic(losses_a[i].mean(axis=0), losses_b[j].mean(axis=0)), len(a), len(b), paired=paired
        )

    return Comparison(
        arm=arm.name,
        baseline=baseline.name,
        flops=float(grid[-1]),
        target=float(max(last_a.mean(), last_b.mean())) if target is None else target,
        difference=over_runs(lambda x, y: float(x[-1] - y[-1])),
        student=student(last_a - last_b) if paired else None,
        speedup=over_runs(lambda x, y: speedup_at_loss(grid, x, y, max(x[-1], y[-1]) if target is None else target)),
        area=over_runs(lambda x, y: area_between(grid, x, y)),
        paired=paired,
        longer=max(curve.end for curve in (*a, *b)) / float(grid[-1]),
    )


def speedup_at_loss(flops: np.ndarray, arm: np.ndarray, baseline: np.ndarray, target: float) -> float:
    """FLOPs of the baseline over those of the arm where they first come to `target`, less 1.

    -1 where only the baseline comes to it, inf where only the arm does, NaN where neither.
    """
    mine, theirs = first_crossing(flops, arm, target), first_crossing(flops, baseline, target)
    if np.isinf(mine):
        return float("nan") if np.isinf(theirs) else -1.0
    return theirs / mine - 1


def area_between(flops: np.ndarray, arm: np.ndarray, baseline: np.ndarray) -> float:
    """The mean of arm - baseline over log FLOPs, by the trapezoidal rule; of a single point the difference there."""
    if len(flops) == 1:
        return float(arm[0] - baseline[0])
    x = np.log(flops)
    return float(np.trapezoid(arm - baseline, x) / (x[-1] - x[0]))


def compare_all(arms: Sequence[Arm], baseline: str, target: float | None = None) -> list[Comparison]:
    """Every other arm against the arm named `baseline`."""
    against = next(arm for arm in arms if arm.name == baseline)
    return [compare(arm, against, target) for arm in arms if arm is not against]
