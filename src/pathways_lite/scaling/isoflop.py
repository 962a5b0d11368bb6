"""Compute-optimal sizes without a loss law: Hoffmann et al.'s approaches 1 and 2, and Porian et al.'s interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import interpolate, optimize

from pathways_lite.errors import UserError
from pathways_lite.scaling.bootstrap import bootstrap_limits, resample_weights


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient x^exponent, by least squares in logarithms."""

    coefficient: float
    exponent: float
    r2: float

    def __call__(self, x: float) -> float:
        return self.coefficient * x**self.exponent


def fit_power_law(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> PowerLaw:
    """A line in ln x and ln y, rows weighted by `weights` [rows]. Raises UserError for fewer than two different x."""
    u, v = np.log(np.asarray(x, np.float64)), np.log(np.asarray(y, np.float64))
    if not (np.isfinite(u).all() and np.isfinite(v).all()):
        raise UserError("a power law needs positive numbers in every row")
    if len(np.unique(u)) < 2:
        raise UserError(f"{len(np.unique(u))} different x cannot carry a power law; give at least 2")
    w = np.ones(len(u)) if weights is None else np.asarray(weights, np.float64)
    mean_u, mean_v = np.average(u, weights=w), np.average(v, weights=w)
    slope = np.sum(w * (u - mean_u) * (v - mean_v)) / np.sum(w * (u - mean_u) ** 2)
    residual = v - mean_v - slope * (u - mean_u)
    spread = np.sum(w * (v - mean_v) ** 2)
    r2 = 1 - float(np.sum(w * residual**2) / spread) if spread > 0 else 1.0
    return PowerLaw(float(np.exp(mean_v - slope * mean_u)), float(slope), r2)


@dataclass(frozen=True)
class Optimum:
    """The best size at one compute; `N` is None where it lies at the edge of the sizes that were tried."""

    C: float
    N: float | None
    L: float


def parabola_optimum(C: float, N: np.ndarray, L: np.ndarray) -> Optimum:
    """Approach 2: the minimum of a parabola in ln N. Biased when the sizes are not centred on the optimum."""
    u = np.log(np.asarray(N, np.float64))
    if len(np.unique(u)) < 3:
        raise UserError(f"C={C:g} has {len(np.unique(u))} different sizes; a parabola needs at least 3")
    a, b, c = np.polyfit(u - u.mean(), L, 2)
    if a <= 0:
        return Optimum(C, None, float(np.min(L)))
    at = -b / (2 * a)
    inside = u.min() < at + u.mean() < u.max()
    return Optimum(C, float(np.exp(at + u.mean())) if inside else None, float(c - b * b / (4 * a)))


def akima_optimum(C: float, N: np.ndarray, L: np.ndarray, per_gap: int = 25) -> Optimum:
    """Porian et al.: the best of 25 (n-1) sizes on an Akima spline of ln L over ln N, equal sizes at their best."""
    sizes = np.unique(N)
    if len(sizes) < 3:
        raise UserError(f"C={C:g} has {len(sizes)} different sizes; the interpolation needs at least 3")
    best = np.array([np.min(np.asarray(L)[np.asarray(N) == size]) for size in sizes])
    grid = np.geomspace(sizes[0], sizes[-1], (len(sizes) - 1) * per_gap)
    inside = np.clip(np.log(grid), np.log(sizes[0]), np.log(sizes[-1]))
    curve = interpolate.Akima1DInterpolator(np.log(sizes), np.log(best))(inside)
    at = int(np.argmin(curve))
    edge = at in (0, len(grid) - 1)
    return Optimum(C, None if edge else float(grid[at]), float(np.exp(curve[at])))


def isoflop_optima(C: np.ndarray, N: np.ndarray, L: np.ndarray, *, akima: bool = False) -> list[Optimum]:
    """The best size at every compute that has at least three."""
    find = akima_optimum if akima else parabola_optimum
    groups = [(c, np.asarray(C) == c) for c in np.unique(C)]
    return [find(float(c), N[rows], L[rows]) for c, rows in groups if len(np.unique(N[rows])) >= 3]


def fit_optima(optima: Sequence[Optimum]) -> PowerLaw:
    """N*(C), without optima at edges. Raises UserError where fewer than two are left."""
    found = [o for o in optima if o.N is not None]
    if len(found) < 2:
        raise UserError(f"{len(found)} budgets have their optimum inside the sizes tried; at least 2 are needed")
    return fit_power_law(np.array([o.C for o in found]), np.array([o.N for o in found]))


def nearest_budgets(C: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Each row's nearest budget in ln C: for points that lie near, not on, common budgets."""
    nearest = np.argmin(np.abs(np.log(np.asarray(C))[:, None] - np.log(budgets)[None, :]), axis=1)
    return np.asarray(budgets)[nearest]


def fit_envelope(C: np.ndarray, N: np.ndarray, L: np.ndarray, *, points: int = 1500) -> tuple[PowerLaw, PowerLaw]:
    """Approach 1: N*(C) and D*(C) of the size with the lowest loss at `points` log-spaced budgets.

    Rows are points along training curves of the sizes N; each curve is interpolated in logarithms, and a size takes
    part in the budgets that its curve covers. With C = 6ND the two exponents add up to one.
    """
    sizes = np.unique(N)
    if len(sizes) < 2:
        raise UserError("one value of N cannot show which size is best; give curves of at least two")
    low = min(C[size == N].min() for size in sizes)
    budgets = np.geomspace(low, C.max(), points)
    losses = np.full((len(sizes), points), np.inf)
    for i, size in enumerate(sizes):
        rows = np.flatnonzero(size == N)
        rows = rows[np.argsort(C[rows])]
        c = np.log(C[rows])
        inside = (np.log(budgets) >= c[0]) & (np.log(budgets) <= c[-1])
        losses[i, inside] = np.exp(np.interp(np.log(budgets[inside]), c, np.log(L[rows])))
    covered = np.isfinite(losses).any(axis=0)
    best, budgets = sizes[np.argmin(losses[:, covered], axis=0)], budgets[covered]
    return fit_power_law(budgets, best), fit_power_law(budgets, budgets / (6 * best))


def variable_projection(
    N: np.ndarray, D: np.ndarray, L: np.ndarray, *, start: tuple[float, float] = (0.35, 0.4)
) -> dict[str, float]:
    """The Chinchilla law by least squares of raw losses: search over alpha and beta, the rest by non-negative lines.

    Only two parameters are searched, and the others are optimal at every step, so that the search is well conditioned
    (condition number about 11 instead of 3.5e11).
    """
    log_n, log_d = np.log(N) - np.mean(np.log(N)), np.log(D) - np.mean(np.log(D))

    def project(exponents: np.ndarray) -> tuple[np.ndarray, float]:
        design = np.stack([np.ones(len(L)), np.exp(-exponents[0] * log_n), np.exp(-exponents[1] * log_d)], axis=1)
        coefficients, residual = optimize.nnls(design, L)
        return coefficients, float(residual)

    grid = [(a, b) for a in np.linspace(0.1, 1.0, 7) for b in np.linspace(0.1, 1.0, 7)]
    begin = min([start, *grid], key=lambda e: project(np.array(e))[1])
    found = optimize.minimize(
        lambda e: project(e)[1] ** 2, np.array(begin), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-16}
    )
    (E, A, B), residual = project(found.x)
    alpha, beta = found.x
    return {
        "A": float(A * np.exp(alpha * np.mean(np.log(N)))), "B": float(B * np.exp(beta * np.mean(np.log(D)))),
        "E": float(E), "alpha": float(alpha), "beta": float(beta), "rmse": residual / len(L) ** 0.5,
    }  # fmt: skip


# Where two laws cross, with an interval, or that they do not.


@dataclass(frozen=True)
class Crossover:
    """C where two fitted power laws meet; None where they do not within `reach` times the data's range.

    `low` and `high` bound it (percentiles over resamples of both data sets, in ln C); `share` of the resamples crossed.
    """

    C: float | None
    low: float | None
    high: float | None
    crossing_fraction: float
    first: PowerLaw
    second: PowerLaw


def crossing_point(first: PowerLaw, second: PowerLaw) -> float | None:
    """C* = (a1/a2)^(1/(b1-b2)) of L_i = a_i C^-b_i; None for parallel laws."""
    difference = second.exponent - first.exponent
    if difference == 0:
        return None
    log = np.log(first.coefficient / second.coefficient) / difference
    return float(np.exp(log)) if abs(log) < 700 else None


def find_crossover(
    C1: np.ndarray, L1: np.ndarray, C2: np.ndarray, L2: np.ndarray,
    *, reach: float = 100.0, bootstraps: int = 2000, level: float = 0.95, seed: int = 0,
) -> Crossover:  # fmt: skip
    """Where L1(C) and L2(C) cross, both fitted as power laws. Raises UserError where one cannot be fitted."""
    first, second = fit_power_law(C1, L1), fit_power_law(C2, L2)
    low, high = min(np.min(C1), np.min(C2)) / reach, max(np.max(C1), np.max(C2)) * reach

    def within(C: float | None) -> float | None:
        return C if C is not None and low <= C <= high else None

    found = []
    pairs = zip(
        resample_weights(len(C1), bootstraps, seed), resample_weights(len(C2), bootstraps, seed + 1), strict=True
    )
    for w1, w2 in pairs:
        if len(np.unique(C1[w1 > 0])) > 1 and len(np.unique(C2[w2 > 0])) > 1:
            found.append(within(crossing_point(fit_power_law(C1, L1, w1), fit_power_law(C2, L2, w2))))
    crossed = [np.log(C) for C in found if C is not None]
    share = len(crossed) / max(len(found), 1)
    C = within(crossing_point(first, second))
    if C is None or not crossed:
        return Crossover(None, None, None, share, first, second)
    limits = np.exp(bootstrap_limits(np.array(crossed), level))
    return Crossover(C, float(limits[0]), float(limits[1]), share, first, second)
