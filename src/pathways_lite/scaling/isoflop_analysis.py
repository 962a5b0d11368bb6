"""IsoFLOP profiles: optimal sizes by budget with intervals, the same from laws of the loss, and the parabola's bias.

Hoffmann et al. 2022, approaches 1 to 3 (arXiv 2203.15556); Besiroglu et al. 2024. Parabolas in ln N are biased where
sizes are not centered on the optimum or the loss rises faster on one side (Open Athena, scaling-law-analysis); by how
much is computed for the runs at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.intervals import LEVEL, Interval
from pathways_lite.scaling.isoflop import (
    Optimum,
    PowerLaw,
    fit_envelope,
    fit_optima,
    fit_power_law,
    isoflop_optima,
    parabola_optimum,
    variable_projection,
)
from pathways_lite.scaling.laws import chinchilla
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.solver import predict, solve
from pathways_lite.scaling.table import Table, derive_columns, numeric_column

TOLERANCE = 0.1  # budgets within 10 % are one


@dataclass(frozen=True)
class Profile:
    """The runs of one budget, and the best size among them; `N` is NaN if it is at the edge of the sizes tried.

    `N` has an interval from the scatter of the losses around all parabolas.
    """

    C: float
    sizes: np.ndarray  # [runs]
    tokens: np.ndarray  # [runs]
    losses: np.ndarray  # [runs]
    N: Interval
    D: float
    L: float


@dataclass(frozen=True)
class Estimate:
    """The optimum by one method: N* = G C^exponent, and what that gives at the target budget."""

    method: str
    exponent: Interval
    N: Interval
    D: Interval
    L: float  # NaN where the method has no law of the loss


@dataclass(frozen=True)
class IsoflopAnalysis:
    """Profiles, what each method says of the budget `C`, and the parabola's bias on these sizes without noise.

    `bias` [2]: N* of the parabolas over the true one, for the budget C, and the difference of the exponents, where the
    truth is the Chinchilla law fitted to the same runs. `noise`: the relative scatter around the parabolas.
    """

    profiles: tuple[Profile, ...]
    size_law: PowerLaw
    C: float
    estimates: tuple[Estimate, ...]
    bias: tuple[float, float]
    noise: float
    law: dict[str, float]  # the Chinchilla law of the runs
    notes: tuple[str, ...]


def budget_of_rows(C: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Return the budget [rows] that each run belongs to: runs within `tolerance` of their neighbors share one."""
    order = np.argsort(C)
    starts = np.concatenate([[True], np.diff(np.log(C[order])) > np.log1p(tolerance)])
    cluster = np.empty(len(C), int)
    cluster[order] = np.cumsum(starts) - 1
    means = np.exp(np.bincount(cluster, np.log(C)) / np.bincount(cluster))
    equal = np.array([np.ptp(C[cluster == i]) == 0 for i in range(len(means))])
    return np.where(equal[cluster], C, means[cluster])


def analyze_isoflops(
    table: Mapping[str, np.ndarray], *, at: float | None = None, akima: bool = False, tolerance: float = TOLERANCE,
    bootstraps: int = 1000, seed: int = 0, level: float = LEVEL,
) -> IsoflopAnalysis:  # fmt: skip
    """Find the compute-optimal sizes of runs with columns C, N, L (and D, else C/6N) by several methods.

    `at`: the budget to extrapolate to; None: ten times the largest. `akima`: the spline of Porian et al. instead of
    parabolas. Raises UserError if fewer than two budgets have an optimum inside their sizes.
    """
    full = derive_columns(table, ("C", "N", "D", "L"))
    C, N, D, L = (numeric_column(full, name) for name in ("C", "N", "D", "L"))
    for name, column in (("C", C), ("N", N), ("D", D), ("L", L)):
        if not np.isfinite(column).all() or (column <= 0).any():
            raise UserError(f"column {name} must have positive numbers in every row; --drop-missing leaves rows out")
    budgets = budget_of_rows(C, tolerance)
    usable = [c for c in np.unique(budgets) if len(np.unique(N[budgets == c])) >= 3]
    if len(usable) < 2:
        raise UserError(
            f"{len(usable)} budgets have at least three sizes; an IsoFLOP analysis needs two (is --tolerance "
            f"{tolerance:g} the spread of C within a budget?)"
        )
    kept = np.isin(budgets, usable)
    C, N, D, L = budgets[kept], N[kept], D[kept], L[kept]
    target = 10 * float(C.max()) if at is None else at
    optima = isoflop_optima(C, N, L, akima=akima)
    size_law = fit_optima(optima)
    samples, noise = _resample_optima(C, N, L, akima, bootstraps if not akima else min(bootstraps, 200), seed)
    law, surface = _surfaces(N, D, L)
    profiles = tuple(_profile(optimum, C, N, D, L, samples[:, i], level) for i, optimum in enumerate(optima))
    estimates = [_from_optima("approach 2" + (" (Akima)" if akima else ""), optima, profiles, samples, target, level)]
    estimates += _others(C, N, L, law, surface, target)
    return IsoflopAnalysis(
        profiles=profiles, size_law=size_law, C=target, estimates=tuple(estimates),
        bias=_parabola_bias(law, C, N, D, target, akima), noise=noise, law=law,
        notes=tuple(_notes(profiles, kept, target, float(C.max()), noise)),
    )  # fmt: skip


def _surfaces(N: np.ndarray, D: np.ndarray, L: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Return Chinchilla's law fitted to the runs by Huber's loss (approach 3), and by variable projection."""
    return dict(solve(CHINCHILLA, {"N": N, "D": D, "L": L}).values), variable_projection(N, D, L)


def _profile(
    optimum: Optimum, C: np.ndarray, N: np.ndarray, D: np.ndarray, L: np.ndarray, samples: np.ndarray, level: float
) -> Profile:
    rows = optimum.C == C
    order = np.argsort(N[rows])
    sizes, tokens = N[rows][order], D[rows][order]
    value = float("nan") if optimum.N is None else optimum.N
    low, high = _limits(samples, level)
    best_tokens = float(np.exp(np.interp(np.log(value), np.log(sizes), np.log(tokens))))
    return Profile(optimum.C, sizes, tokens, L[rows][order], Interval(value, low, high), best_tokens, optimum.L)


def _limits(samples: np.ndarray, level: float) -> tuple[float, float]:
    finite = samples[np.isfinite(samples)]
    if len(finite) < 20:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resample_optima(
    C: np.ndarray, N: np.ndarray, L: np.ndarray, akima: bool, count: int, seed: int
) -> tuple[np.ndarray, float]:
    """Return the optimal sizes [count, budgets] of losses redrawn around the parabolas, NaN at edges, and the scatter.

    Budgets have few sizes, so that resampled rows often determine no parabola; residuals, corrected for leverage and
    pooled over budgets, are drawn instead.
    """
    budgets = np.unique(C)
    fitted = np.empty(len(L))
    residuals = []
    for c in budgets:
        rows = np.flatnonzero(c == C)
        u = np.log(N[rows]) - np.log(N[rows]).mean()
        design = np.stack([np.ones(len(u)), u, u * u], axis=1)
        hat = design @ np.linalg.pinv(design)
        fitted[rows] = hat @ L[rows]
        if len(rows) > 3:
            leverage = np.clip(1 - np.diag(hat), 1e-3, None)
            residuals.append((L[rows] - fitted[rows]) / fitted[rows] / np.sqrt(leverage))
    if not residuals or not count:
        return np.full((0, len(budgets)), np.nan), float("nan")
    pooled = np.concatenate(residuals)
    pooled = pooled - pooled.mean()
    rng = np.random.default_rng(seed)
    drawn = fitted * (1 + rng.choice(pooled, (count, len(L))))
    samples = np.full((count, len(budgets)), np.nan)
    for i, c in enumerate(budgets):
        rows = np.flatnonzero(c == C)
        for j in range(count):
            best = isoflop_optima(C[rows], N[rows], drawn[j, rows], akima=True)[0] if akima else None
            best = best or parabola_optimum(float(c), N[rows], drawn[j, rows])
            samples[j, i] = np.nan if best.N is None else best.N
    return samples, float(np.std(pooled))


def _from_optima(
    method: str, optima: Sequence[Optimum], profiles: Sequence[Profile], samples: np.ndarray, target: float,
    level: float,
) -> Estimate:  # fmt: skip
    """Extrapolate the optima of the budgets, with the interval of the redrawn losses or of the line, if that is wider.

    The redrawn losses know nothing of budgets that lie off the line for another reason than noise; the line's t
    interval does, but is coarse with few budgets.
    """
    inside = [(o, p) for o, p in zip(optima, profiles, strict=True) if o.N is not None]
    C = np.array([o.C for o, _ in inside])
    results = {}
    for name, values in (("N", np.array([o.N for o, _ in inside])), ("D", np.array([p.D for _, p in inside]))):
        law = fit_power_law(C, values)
        results[name] = (law, *_line_errors(C, values, law, target, level))
    law, slope_error, value_error = results["N"]
    slopes: list[float] = []
    at_target: list[float] = []
    log_c = np.log([p.C for p in profiles])
    for row in samples:
        good = np.isfinite(row)
        if good.sum() >= 2:
            slope, intercept = np.polyfit(log_c[good], np.log(row[good]), 1)
            slopes.append(float(slope))
            at_target.append(intercept + slope * np.log(target))
    if len(slopes) >= 20:
        slope_error = max(slope_error, _half_width(slopes, level))
        value_error = max(value_error, _half_width(at_target, level))
    tokens_law, _, tokens_error = results["D"]
    tokens_error = max(tokens_error, value_error)
    size, tokens = law(target), tokens_law(target)
    return Estimate(
        method,
        Interval(law.exponent, law.exponent - slope_error, law.exponent + slope_error),
        Interval(size, size * np.exp(-value_error), size * np.exp(value_error)),
        Interval(tokens, tokens * np.exp(-tokens_error), tokens * np.exp(tokens_error)),
        _loss_of_optima(optima, target),
    )


def _half_width(samples: Sequence[float], level: float) -> float:
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(high - low) / 2


def _line_errors(C: np.ndarray, y: np.ndarray, law: PowerLaw, target: float, level: float) -> tuple[float, float]:
    """Return the half-widths of the t intervals of a line in logarithms: its slope, and its value at the target."""
    from scipy import stats

    u = np.log(C)
    freedom = len(u) - 2
    if freedom < 1:
        return 0.0, 0.0
    residual = np.log(y) - np.log(law.coefficient) - law.exponent * u
    scale = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(np.sum(residual**2) / freedom)
    spread = np.sum((u - u.mean()) ** 2)
    distance = np.log(target) - u.mean()
    return float(scale / np.sqrt(spread)), float(scale * np.sqrt(1 / len(u) + distance**2 / spread))


def _loss_of_optima(optima: Sequence[Optimum], target: float) -> float:
    """Extrapolate the losses of the optima by a power law with a floor; NaN for fewer than four budgets."""
    from pathways_lite.scaling.laws.power import POWER_FLOOR

    inside = [o for o in optima if o.N is not None]
    if len(inside) < 4:
        return float("nan")
    columns = {"x": np.array([o.C for o in inside]), "y": np.array([o.L for o in inside])}
    return float(predict(POWER_FLOOR, solve(POWER_FLOOR, columns).values, {"x": np.array([target])})[0])


def _others(
    C: np.ndarray, N: np.ndarray, L: np.ndarray, law: dict[str, float], surface: dict[str, float], target: float
) -> list[Estimate]:
    """Return the estimates of approach 1 (where sizes recur at several budgets), approach 3 and variable projection."""
    estimates = []
    recurring = [size for size in np.unique(N) if len(np.unique(C[size == N])) >= 3]
    rows = np.isin(N, recurring)
    if len(recurring) >= 3:
        size_law, token_law = fit_envelope(C[rows], N[rows], L[rows])
        estimates.append(
            Estimate(
                "approach 1", _alone(size_law.exponent), _alone(size_law(target)), _alone(token_law(target)), np.nan
            )
        )
    for name, values in (("approach 3 (Huber)", law), ("variable projection", surface)):
        if min(values[key] for key in ("A", "B", "alpha", "beta")) <= 0:
            continue
        best = chinchilla.optimal(values, target)
        exponent = values["beta"] / (values["alpha"] + values["beta"])
        estimates.append(
            Estimate(name, _alone(exponent), _alone(float(best["N"])), _alone(float(best["D"])), float(best["L"]))
        )
    return estimates


def _alone(value: float) -> Interval:
    return Interval(float(value), float("nan"), float("nan"))


def _parabola_bias(
    law: dict[str, float], C: np.ndarray, N: np.ndarray, D: np.ndarray, target: float, akima: bool
) -> tuple[float, float]:
    """Return the ratio of N* and the difference of exponents, on losses of the law at the same runs without noise."""
    if min(law[key] for key in ("A", "B", "alpha", "beta")) <= 0:
        return float("nan"), float("nan")
    clean = predict(CHINCHILLA, law, {"N": N, "D": D})
    try:
        found = fit_optima(isoflop_optima(C, N, clean, akima=akima))
    except UserError:
        return float("nan"), float("nan")
    true_exponent = law["beta"] / (law["alpha"] + law["beta"])
    return float(found(target) / chinchilla.optimal(law, target)["N"]), found.exponent - true_exponent


def _notes(profiles: Sequence[Profile], kept: np.ndarray, target: float, largest: float, noise: float) -> list[str]:
    notes = []
    if not kept.all():
        notes.append(f"{(~kept).sum()} of {len(kept)} runs are at budgets with fewer than three sizes, and not used.")
    edge = [p for p in profiles if not np.isfinite(p.N.value)]
    if edge:
        budgets = ", ".join(f"{p.C:.3g}" for p in edge)
        notes.append(
            f"At C = {budgets} the best size is at the edge of those tried, or there is none: not used; add sizes."
        )
    off_center = [
        p
        for p in profiles
        if np.isfinite(p.N.value)
        and abs(np.log(p.N.value**2 / (p.sizes[0] * p.sizes[-1]))) > 0.5 * np.log(p.sizes[-1] / p.sizes[0])
    ]
    if off_center:
        budgets = ", ".join(f"{p.C:.3g}" for p in off_center)
        notes.append(f"The optimum is far from the middle of the sizes at C = {budgets}, where a parabola is biased.")
    if target > 10 * largest:
        notes.append(f"C = {target:.3g} is {target / largest:.3g} times the largest budget: an extrapolation.")
    if not np.isfinite(noise):
        notes.append(
            "All budgets have three sizes, which a parabola meets exactly: there is no scatter to see, so no interval."
        )
    return notes


def isoflop_table(analysis: IsoflopAnalysis) -> Table:
    """Return the optimum of every budget as a table: C, N, N_low, N_high, D, L."""
    columns = {
        "C": [p.C for p in analysis.profiles], "N": [p.N.value for p in analysis.profiles],
        "N_low": [p.N.low for p in analysis.profiles], "N_high": [p.N.high for p in analysis.profiles],
        "D": [p.D for p in analysis.profiles], "L": [p.L for p in analysis.profiles],
    }  # fmt: skip
    return {name: np.array(values) for name, values in columns.items()}
