"""Compare two arms at equal compute and at equal loss, with intervals over their runs.

All numbers are read off the arms' mean curves: losses averaged over runs at equal FLOPs, interpolated linearly in log
FLOPs. Losses are compared where all runs have points; a speedup is of each arm's curve from its own first point to its
last. FLOPs include the models that a run started from, except for what an imported model had cost elsewhere where that
is unknown (`Comparison.cost_elsewhere`): then they are the FLOPs spent here, and so is what a speedup is of.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pathways_lite.comparison.bootstrap import (
    MIN_BOOTSTRAP_RUNS,
    Statistic,
    bootstrap_interval,
    holm,
    student_t_interval,
    student_t_p_value,
    unpaired_t_interval,
)
from pathways_lite.comparison.curves import Curve, common_grid, first_crossing
from pathways_lite.intervals import Interval
from pathways_lite.ledger import CostElsewhere, least_known

ONE_EVALUATION = "one evaluation per run; set evaluation.every"


@dataclass(frozen=True)
class Arm:
    """A way of training and its runs."""

    name: str
    curves: tuple[Curve, ...]

    @property
    def seeds(self) -> list[int]:
        return [curve.seed for curve in self.curves]

    @property
    def cost_elsewhere(self) -> CostElsewhere | None:
        """What is known of training elsewhere that its runs start from."""
        return least_known(curve.cost_elsewhere for curve in self.curves)

    @property
    def final_loss(self) -> float:
        """The loss at the end of a run, mean over runs."""
        return statistics.fmean(float(curve.loss[-1]) for curve in self.curves)


@dataclass(frozen=True)
class Comparison:
    """An arm compared with a baseline."""

    arm: str
    baseline: str
    flops: float  # the most FLOPs that every run of both arms has spent: the "equal compute"
    target: float  # the loss at which compute is compared
    difference: Interval  # of the losses at equal compute, arm - baseline: negative is better
    t_interval: Interval  # the same by Student's t over pairs, or Welch's over runs that are not paired
    p_value: float | None  # of no difference, by the same t; None for single runs
    speedup: Interval  # FLOPs(baseline) / FLOPs(arm) - 1 at the target: positive is better
    area: Interval  # mean difference of the losses over log FLOPs
    paired: bool
    by_student: bool  # whether all intervals are by Student's t, as runs are few; else they are bootstraps
    max_flops_ratio: float  # the largest FLOPs of any run over `flops`; if well above 1, budgets differ
    progress: tuple[float, float]  # the shares of its own FLOPs after which the arm, and the baseline, is at the target
    p_holm: float | None = None  # `p_value` corrected for all comparisons with this baseline
    comparisons: int = 1  # their number
    cost_elsewhere: CostElsewhere | None = None  # of both arms together
    no_speedup: str = ""  # why the speedup is unknown although the target is reached; "" where it is known

    @property
    def counts_all(self) -> bool:
        """Whether FLOPs are those of everything that led to the models, not only those that were spent here."""
        return self.cost_elsewhere != "unknown"


def compare(arm: Arm, baseline: Arm, target: float | None = None) -> Comparison:
    """Compare two arms.

    Args:
        target: loss for the speedup. None: the larger of the arms' mean losses at equal compute, which both reach; it
            is recomputed in every resample.

    Runs with the same seed are pairs if both arms have exactly the same seeds, each once.

    Speedup as in G_stack (Du et al. 2024, arXiv 2405.15319, equation 48): FLOPs of the baseline over FLOPs of the arm
    at equal loss, minus 1, each where the arm's own curve first reaches the loss. It is NaN where that is not seen, as
    an arm has a single measurement or is below the loss at its first one. Its interval is that of its logarithm. Of few
    pairs it is Student's t over the pairs' own speedups, each at the loss that both of a pair reach, around the speedup
    of the mean curves.
    """
    a, b = list(arm.curves), list(baseline.curves)
    paired = sorted(arm.seeds) == sorted(baseline.seeds) and len(set(arm.seeds)) == len(a)
    if paired:
        a, b = (sorted(curves, key=lambda curve: curve.seed) for curves in (a, b))
    grid = common_grid([*a, *b])
    losses_a, losses_b = (np.array([curve.loss_at(grid) for curve in curves]) for curves in (a, b))  # [runs, grid]
    last_a, last_b = losses_a[:, -1], losses_b[:, -1]
    grid_a, grid_b = common_grid(a), common_grid(b)  # each arm's own, which may begin earlier and end later
    own_a, own_b = (np.array([c.loss_at(flops) for c in curves]) for curves, flops in ((a, grid_a), (b, grid_b)))

    def over_mean_curves(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Statistic:
        """Return `statistic` of the mean curves on the grid as one of the indices of runs."""
        return lambda i, j: statistic(losses_a[i].mean(axis=0), losses_b[j].mean(axis=0))

    def log_speedup(i: np.ndarray, j: np.ndarray) -> float:
        loss = float(max(last_a[i].mean(), last_b[j].mean())) if target is None else target
        speedup = speedup_at_loss(grid_a, own_a[i].mean(axis=0), own_b[j].mean(axis=0), loss, baseline_flops=grid_b)
        return math.log1p(speedup) if speedup > -1 else -math.inf if speedup == -1 else math.nan

    by_student = min(len(a), len(b)) < MIN_BOOTSTRAP_RUNS

    def interval_over_runs(of_runs: Statistic) -> Interval:
        """Return a number of two arms, given the indices of their runs, with its interval."""
        if not by_student:
            return bootstrap_interval(of_runs, len(a), len(b), paired=paired)
        if not paired:
            return unpaired_t_interval(of_runs, len(a), len(b))[0]
        pairs = np.array([of_runs(np.array([i]), np.array([i])) for i in range(len(a))])
        return student_t_interval(pairs, center=of_runs(np.arange(len(a)), np.arange(len(b))))

    def final_difference(x: np.ndarray, y: np.ndarray) -> float:
        return float(x[-1] - y[-1])

    t_interval, p_value = unpaired_t_interval(over_mean_curves(final_difference), len(a), len(b))
    if paired:
        t_interval, p_value = student_t_interval(last_a - last_b), student_t_p_value(last_a - last_b)
    speedup = interval_over_runs(log_speedup)
    loss = float(max(last_a.mean(), last_b.mean())) if target is None else target
    mean_a, mean_b = own_a.mean(axis=0), own_b.mean(axis=0)
    reached = [first_crossing(grid_a, mean_a, loss), first_crossing(grid_b, mean_b, loss)]
    no_speedup = _why_unknown({arm.name: mean_a, baseline.name: mean_b}, loss) if np.all(np.isfinite(reached)) else ""
    if no_speedup:
        reached = [math.nan, math.nan]
    spent = [statistics.median(curve.last_flops for curve in curves) for curves in (a, b)]
    return Comparison(
        arm=arm.name,
        baseline=baseline.name,
        flops=float(grid[-1]),
        target=loss,
        difference=interval_over_runs(over_mean_curves(final_difference)),
        t_interval=t_interval,
        p_value=p_value,
        speedup=Interval(*(_expm1(value) for value in (speedup.value, speedup.low, speedup.high))),
        area=interval_over_runs(over_mean_curves(lambda x, y: area_between(grid, x, y))),
        paired=paired,
        by_student=by_student,
        max_flops_ratio=max(curve.last_flops for curve in (*a, *b)) / float(grid[-1]),
        progress=(reached[0] / spent[0], reached[1] / spent[1]),
        cost_elsewhere=least_known((arm.cost_elsewhere, baseline.cost_elsewhere)),
        no_speedup=no_speedup,
    )


def _is_crossing_unseen(losses: np.ndarray, target: float) -> bool:
    """Return whether a curve [n] may have been at the target long before the point that shows it."""
    return len(losses) == 1 or bool(losses[0] < target)


def _why_unknown(curves: Mapping[str, np.ndarray], target: float) -> str:
    """Say why it is not seen when mean curves, by arm, that reach `target` did so; "" where it is."""
    unseen = [name for name, losses in curves.items() if _is_crossing_unseen(losses, target)]
    if any(len(curves[name]) == 1 for name in unseen):
        return ONE_EVALUATION
    return f"{unseen[0]} is there at its first evaluation; set a smaller evaluation.every" if unseen else ""


def _expm1(value: float) -> float:
    """Return exp(value) - 1, and inf instead of an overflow."""
    return math.inf if value > 700 else math.expm1(value)


def speedup_at_loss(
    flops: np.ndarray,
    arm: np.ndarray,
    baseline: np.ndarray,
    target: float,
    *,
    baseline_flops: np.ndarray | None = None,
) -> float:
    """Return the FLOPs of the baseline over those of the arm where they first reach `target`, minus 1.

    `flops` are those of the points of both curves, or of the arm's where `baseline_flops` are those of the baseline's.
    -1 if only the baseline reaches it, inf if only the arm does, NaN if neither, or if it is not seen when they did.
    """
    spent_by_arm = first_crossing(flops, arm, target)
    spent_by_baseline = first_crossing(flops if baseline_flops is None else baseline_flops, baseline, target)
    if math.isinf(spent_by_arm):
        return math.nan if math.isinf(spent_by_baseline) else -1.0
    if math.isfinite(spent_by_baseline) and any(_is_crossing_unseen(losses, target) for losses in (arm, baseline)):
        return math.nan
    return spent_by_baseline / spent_by_arm - 1


def area_between(flops: np.ndarray, arm: np.ndarray, baseline: np.ndarray) -> float:
    """Return the mean of arm - baseline over log FLOPs by the trapezoidal rule; for one point, the difference."""
    if len(flops) == 1:
        return float(arm[0] - baseline[0])
    x = np.log(flops)
    return float(np.trapezoid(arm - baseline, x) / (x[-1] - x[0]))


def compare_all(arms: Sequence[Arm], baseline: str, target: float | None = None) -> list[Comparison]:
    """Compare every other arm with the arm named `baseline`, with p-values corrected for their number (Holm)."""
    baseline_arm = next(arm for arm in arms if arm.name == baseline)
    compared = [compare(arm, baseline_arm, target) for arm in arms if arm is not baseline_arm]
    corrected = holm([comparison.p_value for comparison in compared])
    return [
        replace(comparison, p_holm=p, comparisons=len(compared))
        for comparison, p in zip(compared, corrected, strict=True)
    ]
