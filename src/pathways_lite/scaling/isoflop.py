"""Compute-optimal sizes without a loss law, and where two power laws cross.

Approaches 1 and 2 of Hoffmann et al., the interpolation of Porian et al., and variable projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    """Fit a line in ln x and ln y, with row weights [rows]. Raises UserError for fewer than two different x."""
    u, v = np.log(np.asarray(x, np.float64)), np.log(np.asarray(y, np.float64))
    if not (np.isfinite(u).all() and np.isfinite(v).all()):
        raise UserError("a power law needs positive numbers in every row")
    if len(np.unique(u)) < 2:
        raise UserError(f"{len(np.unique(u))} different x are too few for a power law; give at least 2")
    w = np.ones(len(u)) if weights is None else np.asarray(weights, np.float64)
    mean_u, mean_v = np.average(u, weights=w), np.average(v, weights=w)
    slope = np.sum(w * (u - mean_u) * (v - mean_v)) / np.sum(w * (u - mean_u) ** 2)
    residual = v - mean_v - slope * (u - mean_u)
    spread = np.sum(w * (v - mean_v) ** 2)
    r2 = 1 - float(np.sum(w * residual**2) / spread) if spread > 0 else 1.0
    return PowerLaw(float(np.exp(mean_v - slope * mean_u)), float(slope), r2)


@dataclass(frozen=True)
class Optimum:
    """The best size at one compute budget; `N` is None if it is at the edge of the sizes that were tried."""

    C: float
    N: float | None
    L: float


def parabola_optimum(C: float, N: np.ndarray, L: np.ndarray) -> Optimum:
    """Return the minimum of a parabola in ln N (approach 2). Biased if the sizes are not centered on the optimum."""
    u = np.log(np.asarray(N, np.float64))
    if len(np.unique(u)) < 3:
        raise UserError(f"C={C:g} has {len(np.unique(u))} different sizes; a parabola needs at least 3")
    a, b, c = np.polyfit(u - u.mean(), L, 2)
    if a <= 0:
        return Optimum(C, None, float(np.min(L)))
    vertex = -b / (2 * a)
    inside = u.min() < vertex + u.mean() < u.max()
    return Optimum(C, float(np.exp(vertex + u.mean())) if inside else None, float(c - b * b / (4 * a)))


def akima_optimum(C: float, N: np.ndarray, L: np.ndarray, per_gap: int = 25) -> Optimum:
    """Return the best of 25 (n-1) sizes on an Akima spline of ln L over ln N through n sizes at their lowest losses.

    The method is that of Porian et al.
    """
    from scipy import interpolate

    sizes = np.unique(N)
    if len(sizes) < 3:
        raise UserError(f"C={C:g} has {len(sizes)} different sizes; the interpolation needs at least 3")
    lowest_losses = np.array([np.min(np.asarray(L)[np.asarray(N) == size]) for size in sizes])
    grid = np.geomspace(sizes[0], sizes[-1], (len(sizes) - 1) * per_gap)
    log_grid = np.clip(np.log(grid), np.log(sizes[0]), np.log(sizes[-1]))
    curve = interpolate.Akima1DInterpolator(np.log(sizes), np.log(lowest_losses))(log_grid)
    best_index = int(np.argmin(curve))
    is_at_edge = best_index in (0, len(grid) - 1)
    return Optimum(C, None if is_at_edge else float(grid[best_index]), float(np.exp(curve[best_index])))


def isoflop_optima(C: np.ndarray, N: np.ndarray, L: np.ndarray, *, akima: bool = False) -> list[Optimum]:
    """Return the best size at every compute budget with at least three sizes."""
    find = akima_optimum if akima else parabola_optimum
    groups = [(c, np.asarray(C) == c) for c in np.unique(C)]
    return [find(float(c), N[rows], L[rows]) for c, rows in groups if len(np.unique(N[rows])) >= 3]


def fit_optima(optima: Sequence[Optimum]) -> PowerLaw:
    """Fit N*(C) without the optima at edges. Raises UserError if fewer than two are left."""
    inside = [o for o in optima if o.N is not None]
    if len(inside) < 2:
        raise UserError(f"{len(inside)} budgets have their optimum inside the sizes tried; at least 2 are needed")
    return fit_power_law(np.array([o.C for o in inside]), np.array([o.N for o in inside]))


def fit_envelope(C: np.ndarray, N: np.ndarray, L: np.ndarray, *, points: int = 1500) -> tuple[PowerLaw, PowerLaw]:
    """Fit N*(C) and D*(C) to the sizes with the lowest loss at `points` log-spaced budgets (approach 1).

    Rows are points along training curves of the sizes N. Each curve is interpolated in logarithms and used at the
    budgets that it covers. With C = 6ND the two exponents add up to one.
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
    """Fit the Chinchilla law to raw losses by a search over alpha and beta, with non-negative least squares inside.

    Only two parameters are searched and the others are optimal at every step, so the search is well conditioned
    (condition number about 11 instead of 3.5e11).
    """
    from scipy import optimize

    log_n, log_d = np.log(N) - np.mean(np.log(N)), np.log(D) - np.mean(np.log(D))

    def project(exponents: np.ndarray) -> tuple[np.ndarray, float]:
        design = np.stack([np.ones(len(L)), np.exp(-exponents[0] * log_n), np.exp(-exponents[1] * log_d)], axis=1)
        coefficients, residual = optimize.nnls(design, L)
        return coefficients, float(residual)

    grid = [(a, b) for a in np.linspace(0.1, 1.0, 7) for b in np.linspace(0.1, 1.0, 7)]
    best_start = min([start, *grid], key=lambda e: project(np.array(e))[1])
    result = optimize.minimize(
        lambda e: project(e)[1] ** 2,
        np.array(best_start),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-16},
    )
    (E, A, B), residual = project(result.x)
    alpha, beta = result.x
    return {
        "A": float(A * np.exp(alpha * np.mean(np.log(N)))), "B": float(B * np.exp(beta * np.mean(np.log(D)))),
        "E": float(E), "alpha": float(alpha), "beta": float(beta), "rmse": residual / len(L) ** 0.5,
    }  # fmt: skip


# ---- crossings ----


@dataclass(frozen=True)
class Crossover:
    """The C at which two fitted power laws cross; None if they do not within `reach` times the data's range.

    `low` and `high` are its percentile limits over resamples of both data sets, in ln C. `crossing_fraction` is the
    fraction of resamples that cross.
    """

    C: float | None
    low: float | None
    high: float | None
    crossing_fraction: float
    first: PowerLaw
    second: PowerLaw


def crossing_point(first: PowerLaw, second: PowerLaw) -> float | None:
    """Return C* = (a1/a2)^(1/(b1-b2)) of L_i = a_i C^-b_i; None for parallel laws."""
    difference = second.exponent - first.exponent
    if difference == 0:
        return None
    log = np.log(first.coefficient / second.coefficient) / difference
    return float(np.exp(log)) if abs(log) < 700 else None


def find_crossover(
    C1: np.ndarray, L1: np.ndarray, C2: np.ndarray, L2: np.ndarray,
    *, reach: float = 100.0, bootstraps: int = 2000, level: float = 0.95, seed: int = 0,
) -> Crossover:  # fmt: skip
    """Find where L1(C) and L2(C) cross, both fitted as power laws. Raises UserError if one cannot be fitted."""
    first, second = fit_power_law(C1, L1), fit_power_law(C2, L2)
    low, high = min(np.min(C1), np.min(C2)) / reach, max(np.max(C1), np.max(C2)) * reach

    def in_reach(C: float | None) -> float | None:
        return C if C is not None and low <= C <= high else None

    crossings = []
    pairs = zip(
        resample_weights(len(C1), bootstraps, seed), resample_weights(len(C2), bootstraps, seed + 1), strict=True
    )
    for w1, w2 in pairs:
        if len(np.unique(C1[w1 > 0])) > 1 and len(np.unique(C2[w2 > 0])) > 1:
            crossings.append(in_reach(crossing_point(fit_power_law(C1, L1, w1), fit_power_law(C2, L2, w2))))
    log_crossings = [np.log(C) for C in crossings if C is not None]
    fraction = len(log_crossings) / max(len(crossings), 1)
    C = in_reach(crossing_point(first, second))
    if C is None or not log_crossings:
        return Crossover(None, None, None, fraction, first, second)
    limits = np.exp(bootstrap_limits(np.array(log_crossings), level))
    return Crossover(C, float(limits[0]), float(limits[1]), fraction, first, second)
