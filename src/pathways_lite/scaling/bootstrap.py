"""How far the data alone would move a fit: resampling rows or whole runs, and intervals from it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy import stats

from pathways_lite.errors import UserError

Kind = Literal["percentile", "bca"]


def resample(rows: int, count: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Weights [count, rows] of bootstrap resamples: how often each row is drawn.

    With `groups` [rows] (the run that a row belongs to) whole groups are drawn, as measurements along one run are no
    independent evidence.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        return rng.multinomial(rows, np.full(rows, 1 / rows), size=count).astype(np.float64)
    names, member = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    if len(names) < 2:
        raise UserError("a bootstrap over runs needs at least two runs; bootstrap over rows instead")
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
    return drawn[:, member].astype(np.float64)


def leave_out(rows: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Weights [rows or groups, rows] that leave out one row, or one group, each."""
    member = np.arange(rows) if groups is None else np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    return (member[None, :] != np.arange(member.max() + 1)[:, None]).astype(np.float64)


def interval(
    samples: Any, level: float = 0.95, *, estimate: Any = None, jackknife: Any = None, kind: Kind = "percentile"
) -> tuple[Any, Any]:
    """Lower and upper limits from bootstrap samples [count, ...].

    "bca" corrects for bias and acceleration (Efron 1987) and needs the estimate [...] and the estimates with each
    row left out, `jackknife` [rows, ...].
    """
    samples = np.asarray(samples, np.float64)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if kind == "percentile":
        low, high = np.nanquantile(samples, tails, axis=0)
        return low, high
    below = np.mean(samples < np.asarray(estimate), axis=0) + 0.5 * np.mean(samples == np.asarray(estimate), axis=0)
    z0 = stats.norm.ppf(np.clip(below, 0.5 / len(samples), 1 - 0.5 / len(samples)))
    away = np.mean(jackknife, axis=0) - np.asarray(jackknife)
    spread = np.sum(away**2, axis=0) ** 1.5
    a = np.sum(away**3, axis=0) / (6 * np.where(spread > 0, spread, 1.0))
    z = stats.norm.ppf(tails).reshape((2,) + (1,) * np.ndim(z0))
    adjusted = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
    flat, levels = samples.reshape(len(samples), -1), adjusted.reshape(2, -1)
    limits = np.stack([np.quantile(flat[:, j], levels[:, j]) for j in range(flat.shape[1])], axis=1)
    low, high = limits.reshape((2, *samples.shape[1:]))
    return low, high
