"""A ladder: small finished runs, the law that they follow, and what it says of a larger run that is to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pathways_lite.scaling.compare import HeldOutError, held_out_errors
from pathways_lite.scaling.fit import Fit, Interval, fit_law
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.losses import LeastSquares
from pathways_lite.scaling.table import numeric, with_derived


@dataclass(frozen=True)
class Ladder:
    """The rungs' law, and a run that it predicts.

    `rehearsal` is what the same law makes of the rung with the most compute when it has seen the others alone.
    """

    fit: Fit
    goal_inputs: dict[str, float]  # inputs of the run to predict, by column name
    compute_ratio: float  # its compute over that of the largest rung
    predicted: Interval
    measured: float | None  # None before it is trained
    held_out_error: HeldOutError

    @property
    def relative_error(self) -> float | None:
        """Relative error of the prediction."""
        return None if self.measured is None else self.predicted.value / self.measured - 1

    def sentences(self) -> list[str]:
        """What was predicted, from how far away, and how it went."""
        inputs = ", ".join(f"{name} = {self.goal_inputs[name]:.4g}" for name in self.fit.law.inputs)
        p = self.predicted
        told = [
            f"At {inputs} the law says {self.fit.law.target} = {p.value:.4f} ({p.low:.4f} to {p.high:.4f}).",
            f"That is {self.compute_ratio:.2g} times the compute of the largest rung; "
            f"without that rung, the same law misses it by {self.held_out_error.worst:.2%}.",
        ]
        if self.relative_error is not None:
            inside = "inside" if p.low <= self.measured <= p.high else "outside"  # type: ignore[operator]
            told.append(
                f"Measured: {self.measured:.4f}, {inside} the interval; the error is {self.relative_error:+.2%}."
            )
        return told


def climb(
    law: Law, rungs: Mapping[str, np.ndarray], goal: Mapping[str, float], *, measured: float | None = None,
    bootstraps: int = 1000, seed: int = 0, level: float = 0.95,
) -> Ladder:  # fmt: skip
    """Fit `law` to the rungs, one row per finished run, and predict the run with the inputs of `goal`.

    Runs that differ in their seed alone are no independent evidence of the law, so the bootstrap draws all seeds of a
    rung together. The interval is the law's, without the luck of a single run. The loss is least squares, whatever the
    law's own: where rungs are few and seeds differ by more than Huber's delta, a loss that is linear there is flat
    between the seeds of a rung, and hardly a resample moves the fit (docs/results/ladder.md has the coverage of both).
    Raises UserError where the rungs cannot carry the fit, also without the largest.
    """
    full = with_derived(rungs, (*law.inputs, law.target, "C"))
    wanted = with_derived({name: np.array([value]) for name, value in goal.items()}, (*law.inputs, "C"))
    rows = zip(*(full[name] for name in law.inputs), strict=True)
    fit = fit_law(
        law, full, loss=LeastSquares(), bootstraps=bootstraps, seed=seed, groups=np.array([str(row) for row in rows])
    )
    return Ladder(
        fit=fit,
        goal_inputs={name: float(wanted[name][0]) for name in law.inputs},
        compute_ratio=float(wanted["C"][0] / numeric(full, "C").max()),
        predicted=fit.predict(wanted, level)[0],
        measured=measured,
        held_out_error=held_out_errors([law], full, by="C", loss=LeastSquares(), seed=seed)[0],
    )
