"""A value with its confidence interval: what the bootstraps of comparisons and of scaling laws return."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEVEL = 0.95
"""The level of every interval unless another is given."""


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

    def contains(self, value: float) -> bool:
        """True if `value` is within the limits, ends included."""
        return self.low <= value <= self.high


def tail_quantiles(level: float = LEVEL) -> tuple[float, float]:
    """The two probabilities between which a percentile interval of `level` is: 0.025 and 0.975 for 95 %."""
    return (1 - level) / 2, (1 + level) / 2
