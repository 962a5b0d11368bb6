"""Where two laws cross, with an interval, or that they do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pathways_lite.scaling.bootstrap import interval, resample
from pathways_lite.scaling.isoflop import PowerLaw, fit_power_law


@dataclass(frozen=True)
class Crossover:
    """C where two fitted power laws meet; None where they do not within `reach` times the data's range.

    `low` and `high` bound it (percentiles over resamples of both data sets, in ln C); `share` of the resamples crossed.
    """

    C: float | None
    low: float | None
    high: float | None
    share: float
    first: PowerLaw
    second: PowerLaw


def crossing(first: PowerLaw, second: PowerLaw) -> float | None:
    """C* = (a1/a2)^(1/(b1-b2)) of L_i = a_i C^-b_i; None for parallel laws."""
    difference = second.exponent - first.exponent
    if difference == 0:
        return None
    log = np.log(first.coefficient / second.coefficient) / difference
    return float(np.exp(log)) if abs(log) < 700 else None


def crossover(
    C1: np.ndarray, L1: np.ndarray, C2: np.ndarray, L2: np.ndarray,
    *, reach: float = 100.0, bootstraps: int = 2000, level: float = 0.95, seed: int = 0,
) -> Crossover:  # fmt: skip
    """Where L1(C) and L2(C) cross, both fitted as power laws. Raises UserError where one cannot be fitted."""
    first, second = fit_power_law(C1, L1), fit_power_law(C2, L2)
    low, high = min(np.min(C1), np.min(C2)) / reach, max(np.max(C1), np.max(C2)) * reach

    def within(C: float | None) -> float | None:
        return C if C is not None and low <= C <= high else None

    found = []
    pairs = zip(resample(len(C1), bootstraps, seed), resample(len(C2), bootstraps, seed + 1), strict=True)
    for w1, w2 in pairs:
        if len(np.unique(C1[w1 > 0])) > 1 and len(np.unique(C2[w2 > 0])) > 1:
            found.append(within(crossing(fit_power_law(C1, L1, w1), fit_power_law(C2, L2, w2))))
    crossed = [np.log(C) for C in found if C is not None]
    share = len(crossed) / max(len(found), 1)
    C = within(crossing(first, second))
    if C is None or not crossed:
        return Crossover(None, None, None, share, first, second)
    limits = np.exp(interval(np.array(crossed), level))
    return Crossover(C, float(limits[0]), float(limits[1]), share, first, second)
