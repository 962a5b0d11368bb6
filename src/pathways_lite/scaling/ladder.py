"""Ladders: fit a law to small finished runs (the rungs), and predict a larger run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pathways_lite.intervals import Interval, plain
from pathways_lite.scaling.compare import HeldOutError, held_out_errors
from pathways_lite.scaling.fit import Fit, fit_law
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.losses import LeastSquares
from pathways_lite.scaling.table import derive_columns, numeric_column
from pathways_lite.scaling.uncertainty import KINDS


@dataclass(frozen=True)
class Ladder:
    """The rungs' law, and a run that it predicts.

    `held_out_error` is the error of the same law, fitted without the rung with the most compute, on that rung.
    """

    fit: Fit
    goal_inputs: dict[str, float]  # inputs of the run to predict, by column name
    compute_ratio: float  # its compute over that of the largest rung
    predicted: Interval  # of the law
    of_run: Interval
    of_forecast: Interval
    measured: float | None  # None before it is trained
    held_out_error: HeldOutError

    @property
    def relative_error(self) -> float | None:
        """Relative error of the prediction; None before the run is trained."""
        return None if self.measured is None else self.predicted.value / self.measured - 1

    def sentences(self) -> list[str]:
        """Return what was predicted, how far it extrapolates, and, if measured, its error."""
        inputs = ", ".join(f"{name} = {self.goal_inputs[name]:.4g}" for name in self.fit.law.inputs)
        (value, low, high), run, forecast = (
            interval.texts(".4f") for interval in (self.predicted, self.of_run, self.of_forecast)
        )
        sentences = [
            f"At {inputs} the law predicts {self.fit.law.target} = {value} ({low} to {high}, the interval of the law).",
            f"One run there: {run[1]} to {run[2]}. As a forecast, with what rehearsals missed: {forecast[1]} to "
            f"{forecast[2]}.",
            f"That is {self.compute_ratio:.2g} times the compute of the largest rung; "
            f"fitted without that rung, the law misses it by {self.held_out_error.worst:.2%}.",
        ]
        if self.measured is not None and self.relative_error is not None:
            kinds = {"law": self.predicted, "run": self.of_run, "forecast": self.of_forecast}
            held = [
                f"{'inside' if kind.contains(self.measured) else 'outside'} that of the {name}"
                for name, kind in kinds.items()
            ]
            error = plain(self.relative_error, "+.2%")
            sentences.append(f"Measured: {self.measured:.4f}, {', '.join(held)}; the error is {error}.")
        return sentences


def fit_ladder(
    law: Law, rungs: Mapping[str, np.ndarray], goal: Mapping[str, float], *, measured: float | None = None,
    seed: int = 0, level: float = 0.95,
) -> Ladder:  # fmt: skip
    """Fit `law` to the rungs, one row per finished run, and predict the run with the inputs of `goal`.

    The intervals are profiles of the prediction, as rungs are few (docs/results/ladder.md has their coverage). The loss
    is least squares, whatever the law's own: if rungs are few and seeds differ by more than Huber's delta, a loss that
    is linear there is flat between the seeds of a rung. Raises UserError if the rungs are too few for the fit, with or
    without the largest.
    """
    full = derive_columns(rungs, (*law.inputs, law.target, "C"))
    goal_columns = derive_columns({name: np.array([value]) for name, value in goal.items()}, (*law.inputs, "C"))
    fit = fit_law(law, full, loss=LeastSquares(), seed=seed, method="profile")
    of_law, of_run, of_forecast = (fit.predict(goal_columns, level, kind)[0] for kind in KINDS)
    return Ladder(
        fit=fit,
        goal_inputs={name: float(goal_columns[name][0]) for name in law.inputs},
        compute_ratio=float(goal_columns["C"][0] / numeric_column(full, "C").max()),
        predicted=of_law,
        of_run=of_run,
        of_forecast=of_forecast,
        measured=measured,
        held_out_error=held_out_errors([law], full, by="C", loss=LeastSquares(), seed=seed)[0],
    )
