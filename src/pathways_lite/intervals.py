"""A value with its confidence interval: what the bootstraps of comparisons and of scaling laws return."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

LEVEL = 0.95
"""The level of every interval unless another is given."""

_ROUNDING = 1e-9  # of an interval's value: a limit that is smaller, beyond 0, is a 0 that a fit has not met exactly

Form = str | Callable[[float], str]
"""How numbers are written: a format specification such as `.4g` or `+.1%`, or a function."""


def plain(value: float, form: Form = ".5g") -> str:
    """Format a number for people: a 0 is never -0."""
    render = form if callable(form) else lambda number: format(number, form)
    text = render(value)
    return render(0.0) if text == render(-0.0) else text


@dataclass(frozen=True)
class Interval:
    """An estimate and the limits of its interval.

    Limits are NaN where a single run or no resample gives none. They may be infinite (a loss that some runs never
    reach).
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_limits(self) -> bool:
        return not math.isnan(self.low)

    def texts(self, form: Form = ".5g", missing: str = "") -> tuple[str, str, str]:
        """Format the value and its limits for people, see `plain`; `missing` stands for a limit that is NaN.

        A limit on the other side of 0 that is nothing beside the value is 0. A small one on the same side is shown, as
        the limits of a factor may be any number of decades apart.
        """
        limits = (
            0.0 if limit * self.value < 0 and abs(limit) <= _ROUNDING * abs(self.value) else limit
            for limit in (self.low, self.high)
        )
        value, low, high = (missing if math.isnan(number) else plain(number, form) for number in (self.value, *limits))
        return value, low, high

    def contains(self, value: float) -> bool:
        """True if `value` is within the limits, ends included."""
        return self.low <= value <= self.high


def tail_quantiles(level: float = LEVEL) -> tuple[float, float]:
    """The two probabilities between which a percentile interval of `level` is: 0.025 and 0.975 for 95 %."""
    return (1 - level) / 2, (1 + level) / 2
