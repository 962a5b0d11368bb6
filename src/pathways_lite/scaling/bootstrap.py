"""The bootstrap of a fit: resample rows or whole runs, and return the limits of an interval."""

from __future__ import annotations

from typing import Any

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.intervals import LEVEL, tail_quantiles


class Resamples:
    """The weights [count, rows] of bootstrap resamples, made in order as they are needed.

    A weight is the number of times that a row is drawn. With `groups` [rows] (the run that a row belongs to) whole
    groups are drawn, because measurements along one run are not independent. Raises UserError for fewer than two
    groups.
    """

    def __init__(self, rows: int, count: int, seed: int, groups: np.ndarray | None = None):
        self.shape = (count, rows)
        self._rng = np.random.default_rng(seed)
        self._group_ids = None if groups is None else np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
        self._units = rows if self._group_ids is None else int(self._group_ids.max()) + 1
        if self._group_ids is not None and self._units < 2:
            raise UserError("a bootstrap over runs needs at least two runs; bootstrap over rows instead")

    def draw(self, count: int) -> np.ndarray:
        """Return the weights [count, rows] of the next resamples."""
        draws = self._rng.multinomial(self._units, np.full(self._units, 1 / self._units), size=count)
        return (draws if self._group_ids is None else draws[:, self._group_ids]).astype(np.float64)


def resample_weights(rows: int, count: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the weights [count, rows] of bootstrap resamples, all at once; `Resamples` says what they are."""
    return Resamples(rows, count, seed, groups).draw(count)


def default_count(rows: int) -> int:
    """Return how many resamples a table of that size affords: 1000 up to 50 thousand rows, then fewer, at least 50."""
    return int(np.clip(5e7 / max(rows, 1), 50, 1000))


def jackknife_weights(rows: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the weights [rows or groups, rows] that each leave out one row, or one group."""
    group_ids = np.arange(rows) if groups is None else np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    return (group_ids[None, :] != np.arange(group_ids.max() + 1)[:, None]).astype(np.float64)


def bootstrap_limits(
    samples: Any, level: float = LEVEL, *, estimate: Any = None, jackknife: Any = None
) -> tuple[Any, Any]:
    """Return the lower and upper limits [...] of the percentile interval of bootstrap samples [count, ...].

    Given the estimate [...] and the estimates without each row, `jackknife` [rows, ...], the percentiles are corrected
    for bias and acceleration (BCa: Efron 1987).
    """
    from scipy import stats

    samples = np.asarray(samples, np.float64)
    tails = np.array(tail_quantiles(level))
    if jackknife is None:
        low, high = np.nanquantile(samples, tails, axis=0)
        return low, high
    estimate, jackknife = np.asarray(estimate), np.asarray(jackknife)
    finite = np.isfinite(samples).sum(axis=0)
    below = (np.sum(samples < estimate, axis=0) + 0.5 * np.sum(samples == estimate, axis=0)) / np.maximum(finite, 1)
    z0 = stats.norm.ppf(np.clip(below, 0.5 / len(samples), 1 - 0.5 / len(samples)))
    deviations = np.nanmean(jackknife, axis=0) - jackknife
    spread = np.nansum(deviations**2, axis=0) ** 1.5
    a = np.nansum(deviations**3, axis=0) / (6 * np.where(spread > 0, spread, 1.0))
    z = stats.norm.ppf(tails).reshape((2,) + (1,) * np.ndim(z0))
    adjusted = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
    flat, levels = samples.reshape(len(samples), -1), adjusted.reshape(2, -1)
    limits = np.stack([np.nanquantile(flat[:, j], levels[:, j]) for j in range(flat.shape[1])], axis=1)
    low, high = limits.reshape((2, *samples.shape[1:]))
    return low, high
