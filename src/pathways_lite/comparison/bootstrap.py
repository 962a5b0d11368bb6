"""Intervals over runs: the bootstrap of any statistic of two arms, and Student's t for a mean of differences.

The bootstrap interval is the percentile interval of Efron and Tibshirani (1993), chapter 13. With few runs it is too
narrow, for three by about a third. Reports say so wherever they show it, and add Student's t interval where the result
is a mean.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from scipy.special import stdtrit

from pathways_lite.intervals import Interval, tail_quantiles

_MAX_EXHAUSTIVE = 5000  # take all n^n resamples if there are no more than this
_N_RESAMPLES = 2000


def resample_indices(n: int) -> np.ndarray:
    """Return the indices [resamples, n] of n runs drawn with replacement.

    All n^n resamples if they are few, otherwise a fixed random choice of them.
    """
    if n**n <= _MAX_EXHAUSTIVE:
        return np.array(list(itertools.product(range(n), repeat=n)))
    return np.random.default_rng(0).integers(0, n, (_N_RESAMPLES, n))


def bootstrap_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float], n_a: int, n_b: int, *, paired: bool
) -> Interval:
    """Return `statistic(indices_a, indices_b)` of the runs in two arms, with its percentile interval at `LEVEL`.

    Paired runs (n_a = n_b) are resampled together, others independently. The interval of a single run has no limits.
    """
    value = statistic(np.arange(n_a), np.arange(n_b))
    if min(n_a, n_b) < 2:
        return Interval(value)
    if paired:
        samples = [statistic(indices, indices) for indices in resample_indices(n_a)]
    else:
        rng = np.random.default_rng(0)
        resamples = ((rng.integers(0, n_a, n_a), rng.integers(0, n_b, n_b)) for _ in range(_N_RESAMPLES))
        samples = [statistic(a, b) for a, b in resamples]
    # Nearest ranks, as nothing can be interpolated between a finite and an infinite value.
    low, high = np.quantile(samples, tail_quantiles(), method="nearest")
    return Interval(value, float(low), float(high))


def student_t_interval(differences: np.ndarray) -> Interval:
    """Return the mean of independent differences with Student's t interval at `LEVEL`."""
    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return Interval(mean)
    half_width = float(stdtrit(n - 1, tail_quantiles()[1]) * np.std(differences, ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half_width, mean + half_width)
