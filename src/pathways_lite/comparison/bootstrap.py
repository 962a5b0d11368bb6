"""How far a result could have come out otherwise, had other seeds been drawn: the bootstrap over runs.

Efron and Tibshirani (1993), chapter 13: the percentile interval. With few runs it is too narrow, for three by about a
third; that is said wherever it is shown, with Student's t interval beside it where the result is a mean.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
_MAX_ALL = 5000  # resamples, up to which all of them are taken
_DRAWN = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate and what it could have been; infinite ends are possible (a loss that some runs never reach)."""

    value: float
    low: float = math.nan  # NaN: of a single run nothing can be said
    high: float = math.nan


def resamples(n: int) -> np.ndarray:
    """Indices [m, n] of runs drawn with replacement: all n^n draws where they are few, else some, always the same."""
    if n**n <= _MAX_ALL:
        return np.array(list(itertools.product(range(n), repeat=n)))
    return np.random.default_rng(0).integers(0, n, (_DRAWN, n))


def bootstrap(statistic: Callable[[np.ndarray, np.ndarray], float], n_a: int, n_b: int, *, paired: bool) -> Interval:
    """`statistic(a, b)` of the indices of runs in two arms, with its percentile interval at `LEVEL`.

    Paired runs (n_a = n_b) are drawn together; others apart, as many draws as `resamples` has of the larger arm.
    """
    value = statistic(np.arange(n_a), np.arange(n_b))
    if min(n_a, n_b) < 2:
        return Interval(value)
    if paired:
        drawn = [statistic(pick, pick) for pick in resamples(n_a)]
    else:
        rng = np.random.default_rng(0)
        picks = ((rng.integers(0, n_a, n_a), rng.integers(0, n_b, n_b)) for _ in range(_DRAWN))
        drawn = [statistic(a, b) for a, b in picks]
    # Nearest ranks: between a finite and an infinite one there is nothing to interpolate.
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Interval(value, float(low), float(high))


def student(differences: np.ndarray) -> Interval:
    """The mean of independent differences with Student's t interval at `LEVEL`."""
    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return Interval(mean)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2) * np.std(differences, ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half)
