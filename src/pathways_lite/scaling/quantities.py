"""What intervals are given for: functions of a law's values, on a scale where limits are taken.

Each is hashable by what it computes, so that it is compiled once, and reads its inputs from the second argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from pathways_lite.scaling.law import Columns, Law, Values, to_natural, to_working
from pathways_lite.scaling.losses import INVERSE_LINKS, LINKS, Link


@dataclass(frozen=True)
class Prediction:
    """The law's target at new inputs, [rows], on the scale of the fit's link."""

    law: Law
    link: Link

    def __call__(self, values: Values, columns: Columns) -> Any:
        return LINKS[self.link](self.law.predict(values, columns))

    def natural(self, scaled: Any) -> Any:
        """Return the target from its value on the scale."""
        return INVERSE_LINKS[self.link](scaled)


@dataclass(frozen=True)
class ParameterVector:
    """The law's parameters, [parameters]: logarithms of positive ones, log-odds of shares."""

    law: Law

    def __call__(self, values: Values, _: Any) -> Any:
        return jnp.stack([to_working(p, jnp.asarray(values[p.name])) for p in self.law.parameters])

    def natural(self, scaled: Any) -> Any:
        """Return the parameters from their values on the scale, [..., parameters]."""
        return jnp.stack([to_natural(p, scaled[..., i]) for i, p in enumerate(self.law.parameters)], axis=-1)


@dataclass(frozen=True)
class Allocation:
    """The logarithm of one number of the compute-optimal allocation at budgets C, [budgets]."""

    law: Law
    name: str

    def __call__(self, values: Values, C: Any) -> Any:
        assert self.law.optimal is not None
        return jnp.log(self.law.optimal(values, C)[self.name])

    def natural(self, scaled: Any) -> Any:
        """Return the number from its logarithm."""
        return jnp.exp(scaled)


Quantity = Prediction | ParameterVector | Allocation
