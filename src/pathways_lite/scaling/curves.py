"""Laws of loss curves under learning-rate schedules, fitted to (step, lr, loss) and tested on other schedules.

The multi-power law (Luo et al. 2025, arXiv 2503.12811) and the annealing law (Tissue et al. 2024, arXiv 2408.11029)
read sums over the schedule up to a step; here they are made from the logged rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.laws.annealing import MULTI_POWER, TISSUE, fall_columns, schedule_warnings
from pathways_lite.scaling.measurements import annealing_area, forward_area
from pathways_lite.scaling.solver import Solution, predict, solve
from pathways_lite.scaling.table import Table, numeric_column

CURVE_LAWS: dict[str, Law] = {law.name: law for law in (MULTI_POWER, TISSUE)}
COARSE, FINE, EXACT = 60, 600, 2000  # groups of consecutive changes of the rate, per rise or fall
STARTS = 8


@dataclass(frozen=True)
class Curve:
    """A loss curve [points] and its schedule: the learning rate of every step, [last step + 1]."""

    name: str
    steps: np.ndarray
    losses: np.ndarray
    rates: np.ndarray


@dataclass(frozen=True)
class CurveError:
    """Relative errors of a law on one curve. `role`: whether it was fitted ("fit") or not ("test")."""

    name: str
    role: Literal["fit", "test"]
    points: int
    mean: float
    worst: float
    final: float  # signed, of the last point
    r2: float


@dataclass(frozen=True)
class CurveFit:
    """A law of curves: its values, its errors on every curve, and its predictions [points of the curve] by name."""

    law: Law
    solution: Solution
    errors: tuple[CurveError, ...]
    predictions: dict[str, np.ndarray]
    momentum: float
    notes: tuple[str, ...]

    def summary(self, role: str) -> dict[str, float]:
        """Return the errors on the curves of a role: means over curves, as papers report them, and over all points."""
        chosen = [e for e in self.errors if e.role == role]
        points = np.array([e.points for e in chosen], np.float64)
        return {
            "mean_over_curves": float(np.mean([e.mean for e in chosen])),
            "worst_over_curves": float(np.mean([e.worst for e in chosen])),
            "mean_over_points": float(np.average([e.mean for e in chosen], weights=points)),
            "worst_point": max(e.worst for e in chosen),
        }


def read_curve(
    name: str, table: Mapping[str, np.ndarray], *, warmup: int | None = None, skip: int = 0
) -> tuple[Curve, list[str]]:
    """Make a curve from columns step, lr and loss (or L), and sentences about its schedule.

    Between logged steps the rate is linear. Before the first logged step it rises from zero for `warmup` steps and is
    constant after; None: it rises until the first logged step. `skip` leaves out the losses before that step. Raises
    UserError for missing columns, repeated steps, rates that are negative, and curves of fewer than three points.
    """
    loss = "loss" if "loss" in table else "L"
    steps, rates, losses = (numeric_column(table, column) for column in ("step", "lr", loss))
    known = np.isfinite(steps) & np.isfinite(rates)
    order = np.argsort(steps[known], kind="stable")
    logged, logged_rates = steps[known][order].astype(int), rates[known][order]
    if len(logged) < 3 or (logged_rates < 0).any() or not logged_rates.max() > 0:
        raise UserError(
            f"curve {name} needs at least three steps with rates that are not negative; it has {len(logged)}"
        )
    if len(np.unique(logged)) < len(logged):
        raise UserError(f"curve {name} has step {logged[np.flatnonzero(np.diff(logged) == 0)[0]]} twice")
    all_steps = np.arange(logged[-1] + 1)
    schedule = np.interp(all_steps, logged, logged_rates)
    rise = int(logged[0]) if warmup is None else warmup
    if rise > 0:
        schedule = np.where(all_steps < rise, schedule[min(rise, len(schedule) - 1)] * all_steps / rise, schedule)
    kept = known & np.isfinite(losses) & (steps >= skip) & (losses > 0)
    order = np.argsort(steps[kept], kind="stable")
    if kept.sum() < 3:
        raise UserError(f"curve {name} has {kept.sum()} losses from step {skip} on; at least three are needed")
    sentences = [f"{name}: {sentence}" for sentence in schedule_warnings(schedule)]
    return Curve(name, steps[kept][order].astype(int), losses[kept][order], schedule), sentences


def law_columns(law: Law, curves: Sequence[Curve], groups: int | None, momentum: float) -> Table:
    """Return the law's inputs and its target L for the points of all curves, in their order."""
    losses = np.concatenate([curve.losses for curve in curves])
    if law is MULTI_POWER:
        return {**fall_columns([(_floored(c.rates), c.steps) for c in curves], max_groups=groups), "L": losses}
    return {
        "S1": np.concatenate([forward_area(c.rates)[c.steps] for c in curves]),
        "S2": np.concatenate([annealing_area(c.rates, momentum)[c.steps] for c in curves]),
        "L": losses,
    }


def _floored(rates: np.ndarray) -> np.ndarray:
    """Replace rates of zero, whose logarithm the multi-power law takes, by a millionth of the peak."""
    return np.maximum(rates, 1e-6 * rates.max())


def fit_curves(
    law: Law, curves: Sequence[Curve], test: Sequence[str] = (), *, momentum: float = 0.999, seed: int = 0,
    starts: int | None = None,
) -> CurveFit:  # fmt: skip
    """Fit a law to the curves that `test` does not name, and measure its errors on all.

    The multi-power law is fitted with few groups of steps from many starts, then with ten times as many from the best.
    Raises UserError if no curve is left to fit.
    """
    names = [curve.name for curve in curves]
    if unknown := [name for name in test if name not in names]:
        raise UserError(f"there is no curve {unknown[0]!r} to test on.{did_you_mean(unknown[0], names)}")
    if len(set(names)) < len(names):
        raise UserError(f"curves must have different names; found {', '.join(names)}")
    fitted = [curve for curve in curves if curve.name not in test]
    if not fitted:
        raise UserError("every curve is for testing; leave at least one to fit")
    if law is MULTI_POWER:
        rough = solve(law, law_columns(law, fitted, COARSE, momentum), starts=starts or STARTS, seed=seed)
        start = {name: np.array([value]) for name, value in rough.values.items()}
        solution = solve(law, law_columns(law, fitted, FINE, momentum), starts=start)
        solution = replace(solution, starts=rough.starts, reached=rough.reached)
    else:
        solution = solve(law, law_columns(law, fitted, None, momentum), starts=starts or 20, seed=seed)
    errors, predictions = [], {}
    for curve in curves:
        predicted = predict(law, solution.values, law_columns(law, [curve], EXACT, momentum))
        relative = predicted / curve.losses - 1
        spread = float(np.sum((curve.losses - curve.losses.mean()) ** 2))
        r2 = 1 - float(np.sum((predicted - curve.losses) ** 2)) / spread if spread > 0 else float("nan")
        predictions[curve.name] = predicted
        errors.append(
            CurveError(
                curve.name, "test" if curve.name in test else "fit", len(curve.losses), float(np.abs(relative).mean()),
                float(np.abs(relative).max()), float(relative[-1]), r2,
            )
        )  # fmt: skip
    notes = []
    if len({np.round(curve.rates / curve.rates.max(), 3).tobytes() for curve in fitted}) == 1:
        notes.append("All fitted curves have one schedule, so what a decay is worth follows from its shape alone.")
    if law is MULTI_POWER and any((curve.rates[curve.steps] <= 0).any() for curve in curves):
        notes.append("Rates of zero are counted as a millionth of the peak, as the law takes their logarithm.")
    return CurveFit(law, solution, tuple(errors), predictions, momentum, tuple(notes))
