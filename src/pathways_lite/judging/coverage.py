"""Coverage: the share of problems that at least one of k samples solves, with intervals that resample problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pathways_lite.intervals import LEVEL
from pathways_lite.scaling.bootstrap import bootstrap_limits, resample_weights
from pathways_lite.scaling.laws.inference import pass_at_k

POINTS = 40
RESAMPLES = 1000
_ELEMENTS = 2**22  # of pass@k that are computed at once


def log_spaced(largest: int, points: int = POINTS) -> np.ndarray:
    """Return at most `points` different integers from 1 to `largest`, evenly spaced in their logarithm."""
    return np.unique(np.rint(np.geomspace(1, largest, points)).astype(np.int64))


def coverage_by_problem(samples: Any, correct: Any, ks: Any) -> np.ndarray:
    """Return the unbiased pass@k [problems, ks] of counts of samples and of correct samples [problems].

    Raises UserError if a k is larger than a problem's number of samples.
    """
    samples, correct, ks = (np.atleast_1d(np.asarray(x, np.int64)) for x in (samples, correct, ks))
    # Few different counts occur, so each is computed once.
    pairs, problem = np.unique(np.stack([samples, correct]), axis=1, return_inverse=True)
    step = max(1, _ELEMENTS // max(pairs.shape[1], 1))
    parts = [pass_at_k(pairs[0][:, None], pairs[1][:, None], ks[None, i : i + step]) for i in range(0, len(ks), step)]
    return np.concatenate(parts, axis=1)[problem.ravel()]


def problem_resamples(problems: int, groups: Sequence[str] | None = None, *, seed: int = 0) -> np.ndarray:
    """Return bootstrap weights [resamples, problems]; variants of one problem, with equal `groups`, are drawn together.

    A single problem, or a single group, has one resample: no interval can be found from it.
    """
    units = problems if groups is None else len(set(groups))
    if units < 2:
        return np.ones((1, problems))
    return resample_weights(problems, RESAMPLES, seed, None if groups is None else np.array(groups, dtype=object))


def mean_over_problems(
    values: Any, weights: np.ndarray, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean [...] of values [problems, ...] and the limits of its interval by resamples of problems.

    `weights` [resamples, problems] are of `problem_resamples`. Limits are NaN with fewer than two resamples.
    """
    values = np.asarray(values, np.float64)
    mean = values.mean(axis=0)
    if len(weights) < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    low, high = bootstrap_limits(resampled_means(values, weights), level)
    return mean, low, high


def resampled_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted means [resamples, ...] of values [problems, ...]."""
    shape = values.shape[1:]
    means = weights @ values.reshape(len(values), -1) / weights.sum(axis=1, keepdims=True)
    return means.reshape(len(weights), *shape)
