"""Predictions in two steps: from the budget to a loss, and from the loss to what a task measures.

Bhagia et al. 2024, arXiv 2412.04403 (OLMo's ladders). Krajewski et al. 2025, arXiv 2512.08894, find that errors
compound and fit the task directly: `task` and `task-compute`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.intervals import LEVEL, Interval
from pathways_lite.scaling.bootstrap import bootstrap_limits
from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.law import Columns, Law
from pathways_lite.scaling.solver import predict, predict_many


@dataclass(frozen=True)
class TwoSteps:
    """A fit `first` whose target is an input of the fit `second`.

    Raises UserError if it is not.
    """

    first: Fit
    second: Fit

    def __post_init__(self) -> None:
        if self.first.law.target not in self.second.law.inputs:
            raise UserError(
                f"{self.second.law.name} reads {', '.join(self.second.law.inputs)}, not {self.first.law.target}, which "
                f"{self.first.law.name} predicts; give the fit of the loss after --through, and that of the task first"
            )

    @property
    def law(self) -> Law:
        """The two laws as one: the inputs of both, except the one that passes between them."""
        between = self.first.law.target
        others = tuple(name for name in self.second.law.inputs if name != between)
        return replace(
            self.second.law,
            name=f"{self.second.law.name} through {self.first.law.name}",
            inputs=tuple(dict.fromkeys((*self.first.law.inputs, *others))),
        )

    def predict(self, columns: Columns, level: float = LEVEL) -> list[Interval]:
        """Predict the target of the second law, with the errors of both laws in the interval.

        Bootstrap samples of the two fits are paired as they come, from different resamples; where a fit has none, the
        distances to the limits of the two laws are added in quadrature. Raises UserError if an input is missing.
        """
        if missing := [name for name in self.law.inputs if name not in columns]:
            raise UserError(f"{self.law.name} needs {', '.join(f'{name}=…' for name in missing)} as well")
        inputs = {name: np.atleast_1d(np.asarray(columns[name], np.float64)) for name in self.law.inputs}
        between = self.first.law.target
        value = predict(self.second.law, self.second.values, {**inputs, between: self._first(inputs)})
        count = min(self.first.bootstraps, self.second.bootstraps)
        if not count:
            return self._in_quadrature(inputs, level)
        losses = predict_many(self.first.law, {n: s[:count] for n, s in self.first.samples.items()}, inputs)
        samples = [
            predict(
                self.second.law, {name: s[i] for name, s in self.second.samples.items()}, {**inputs, between: losses[i]}
            )
            for i in range(count)
        ]  # fmt: skip
        low, high = bootstrap_limits(np.array(samples), level)
        return [Interval(float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)]

    def _in_quadrature(self, inputs: Columns, level: float) -> list[Interval]:
        """Add the distances to the limits of two independent errors in quadrature.

        One is the second law's own at the predicted loss; the other is the first's, as the second law maps its limits,
        which are in order as it rises or falls throughout. Zou and Donner 2008 (doi 10.1002/sim.3095, MOVER) do so for
        sums; a composition's error is such a sum to first order, and exactly so for lines.
        """
        between = self.first.law.target
        losses = self.first.predict(inputs, level)
        own = self.second.predict({**inputs, between: np.array([loss.value for loss in losses])}, level)
        ends = [
            predict(self.second.law, self.second.values, {**inputs, between: np.array(limits)})
            for limits in ([loss.low for loss in losses], [loss.high for loss in losses])
        ]
        value = np.array([interval.value for interval in own])
        below, above = value - np.minimum(*ends), np.maximum(*ends) - value
        low = value - np.hypot(below, [interval.value - interval.low for interval in own])
        high = value + np.hypot(above, [interval.high - interval.value for interval in own])
        return [Interval(float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)]

    def _first(self, inputs: Columns) -> np.ndarray:
        return predict(self.first.law, self.first.values, inputs)

    def extrapolation_warnings(self, columns: Columns) -> list[str]:
        """Return the warnings of both laws, the second's at the predicted loss."""
        inputs = {name: np.atleast_1d(np.asarray(columns[name], np.float64)) for name in self.law.inputs}
        second = {**inputs, self.first.law.target: self._first(inputs)}
        return [*self.first.extrapolation_warnings(inputs), *self.second.extrapolation_warnings(second)]
