"""Does a method pay, by how much, and at which scale: efficiency factors of arms that share a law's exponents.

Separate laws per arm are ill-conditioned: their exponents trade with their coefficients. Here all arms have one law,
and an arm's compute (or tokens, or parameters) counts f times (Volkova et al. 2026, arXiv 2602.07712). A second fit
lets f change as a power of scale, which is an exponent of the arm's own; the two are compared by an F test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import jax
import numpy as np

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.intervals import LEVEL, Interval
from pathways_lite.scaling.checks import validate_columns
from pathways_lite.scaling.law import Law, double_precision
from pathways_lite.scaling.laws.efficiency import BASES, MARK, efficiency_law
from pathways_lite.scaling.losses import LINKS
from pathways_lite.scaling.solver import Solution, solve
from pathways_lite.scaling.table import Table, derive_columns, numeric_column


@dataclass(frozen=True)
class Factor:
    """What one unit of an input is worth in an arm, in units of the baseline's.

    `shared` is the factor where exponents are shared. `smallest`, `largest` and `goal` are the factors at the smallest
    and the largest measured value of the input and at a given one, where the factor is a power of the input with
    exponent `slope`. `p_value` tests that `slope` is zero, corrected for the number of arms and inputs by Holm's
    method.
    """

    arm: str
    column: str
    shared: Interval
    slope: Interval
    smallest: Interval
    largest: Interval
    goal: Interval | None
    p_value: float


@dataclass(frozen=True)
class Efficiency:
    """The factors of all arms. `p_value`: of the F test that all arms share the exponents; NaN without rows left."""

    law: Law
    values: dict[str, float]
    baseline: str
    factors: tuple[Factor, ...]
    p_value: float
    rows: int
    freedom: int
    error: float  # the residual standard deviation of ln L
    ranges: dict[str, tuple[float, float]]
    goal: dict[str, float]
    replicates: int  # seeds, if intervals are over seeds; else 0
    notes: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """Return a sentence per factor, and one about the exponents."""
        lines = []
        for factor in self.factors:
            what = {"C": "compute", "D": "tokens", "N": "parameters"}.get(factor.column, factor.column)
            verdict = "no difference is shown"
            if factor.shared.has_limits and factor.shared.low > 1:
                verdict = "it pays"
            elif factor.shared.has_limits and factor.shared.high < 1:
                verdict = "it costs more than it gives"
            elif not factor.shared.has_limits:
                verdict = "there is no interval"
            lines.append(
                f"{factor.arm} makes {what} worth {_times(factor.shared)} those of {self.baseline}: {verdict}."
            )
            if np.isfinite(factor.p_value) and factor.p_value < 0.05:
                direction = "grows" if factor.slope.value > 0 else "shrinks"
                (low, high), goal = self.ranges[factor.column], factor.goal
                lines.append(
                    f"The factor {direction} with {factor.column} (p = {factor.p_value:.2g}): "
                    f"{_times(factor.smallest)} at {low:.3g}, {_times(factor.largest)} at {high:.3g}"
                    + (f", {_times(goal)} at {self.goal[factor.column]:.3g}" if goal else "")
                    + "."
                )
            elif factor.goal is not None and factor.goal.has_limits:
                lines.append(
                    f"At {factor.column} = {self.goal[factor.column]:.3g} it is {_times(factor.goal)} if the exponent "
                    "may differ."
                )
        if np.isfinite(self.p_value):
            lines.append(
                f"Shared exponents: p = {self.p_value:.2g} by an F test"
                + (
                    ", so they differ: quote the factor with its scale."
                    if self.p_value < 0.05
                    else ", so nothing speaks against them."
                )
            )
        return [*lines, *self.notes]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979); NaN stays and does not count."""
    p = np.asarray(p_values, np.float64)
    corrected = p.copy()
    order = [i for i in np.argsort(p) if np.isfinite(p[i])]
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = largest
    return corrected.tolist()


def _times(interval: Interval) -> str:
    value, low, high = interval.texts(".3g")
    return f"{value} times" + (f" ({low} to {high})" if interval.has_limits else "")


def fit_efficiency(
    table: Mapping[str, np.ndarray], arms: np.ndarray, *, baseline: str, law: str = "chinchilla",
    scaled: Sequence[str] = ("D",), goal: Mapping[str, float] | None = None, seeds: np.ndarray | None = None,
    level: float = LEVEL, units: bool = False,
) -> Efficiency:  # fmt: skip
    """Fit the law `law` ("chinchilla", "compute" or "tokens") to all arms, with factors of the inputs `scaled`.

    `arms` [rows] names the arm of every run. Runs are independent rows, and intervals are by the delta method with
    Student's t, unless `seeds` [rows] is given: then rows of a seed are measured along the same runs, each seed is
    fitted apart, and intervals are Student's t over seeds. `goal`: inputs to give the factor at.

    Raises UserError if the baseline or a law is missing, or the rows cannot carry the fit.
    """
    names = [str(name) for name in dict.fromkeys(arms.tolist())]
    others = tuple(name for name in names if name != baseline)
    if baseline not in names or not others:
        raise UserError(f"the baseline {baseline!r} and another arm must have runs.{did_you_mean(baseline, names)}")
    if law not in BASES:
        raise UserError(f"no factors are fitted with a law {law!r}.{did_you_mean(law, BASES)}")
    if bad := [name for name in names if "," in name]:
        raise UserError(f"the arm {bad[0]!r} has a comma in its name; rename it")
    shared = efficiency_law((law, "+".join(scaled), "shared", *others))
    free = efficiency_law((law, "+".join(scaled), "free", *others))
    columns = _columns(table, arms, others, BASES[law], scaled)
    alternatives: dict[str, Law] = {}
    every = dict(columns)
    for name, base in BASES.items():
        alternatives[f"--law {name}"] = efficiency_law((name, base.inputs[-1], "shared", *others))
        with suppress(UserError):  # a column is missing
            every |= _columns(table, arms, others, base, base.inputs[-1:])
    validate_columns(shared, every, units=units, alternatives=alternatives)
    ranges = {name: (float(columns[name].min()), float(columns[name].max())) for name in scaled}
    points = {name: float(value) for name, value in (goal or {}).items()}
    pooled = solve(shared, columns)
    rows, freedom = len(columns["L"]), len(columns["L"]) - len(shared.parameters)
    error = float(np.sqrt(2 * pooled.objective / max(freedom, 1)))
    notes: list[str] = []
    if seeds is not None:
        factors = _factors_over_seeds(
            shared, free, columns, seeds, others, scaled, ranges, points, level, pooled, notes
        )
        p_value, replicates = float("nan"), len(set(seeds.tolist()))
    else:
        factors, p_value = _factors_of_rows(shared, free, columns, others, scaled, ranges, points, level, pooled, notes)
        replicates = 0
    corrected = holm([factor.p_value for factor in factors])
    factors = [replace(factor, p_value=p) for factor, p in zip(factors, corrected, strict=True)]
    return Efficiency(
        law=shared, values=pooled.values, baseline=baseline, factors=tuple(factors), p_value=p_value, rows=rows,
        freedom=freedom, error=error, ranges=ranges, goal=points, replicates=replicates, notes=tuple(notes),
    )  # fmt: skip


def _columns(
    table: Mapping[str, np.ndarray], arms: np.ndarray, others: Sequence[str], base: Law, scaled: Sequence[str]
) -> Table:
    full = derive_columns(table, (*base.inputs, "L"))
    columns = {name: numeric_column(full, name) for name in (*base.inputs, "L")}
    columns |= {MARK + arm: (arms == arm).astype(np.float64) for arm in others}
    for name in scaled:
        positive = np.where(columns[name] > 0, columns[name], np.nan)
        columns[f"reference {name}"] = np.full(len(arms), np.nanmean(np.log(positive)))
    return columns


def _log_factor(arm: str, column: str, x: float, reference: float, law: Law) -> np.ndarray:
    """Return the weights [parameters] with which the working parameters add up to ln f at the input x."""
    weights = np.zeros(len(law.names))
    weights[law.names.index(f"f_{column}_{arm}")] = 1
    weights[law.names.index(f"g_{column}_{arm}")] = np.log(x) - reference
    return weights


def _factors_of_rows(
    shared: Law, free: Law, columns: Table, others: Sequence[str], scaled: Sequence[str],
    ranges: Mapping[str, tuple[float, float]], goal: Mapping[str, float], level: float, pooled: Solution,
    notes: list[str],
) -> tuple[list[Factor], float]:  # fmt: skip
    """Return factors with intervals by the delta method over independent rows, and the p value of shared exponents."""
    from scipy import stats

    covariance, freedom = _covariance(pooled, columns)
    rows, count = len(columns["L"]), len(free.parameters)
    curved = solve(free, columns, starts=_starts_from(pooled, free)) if rows > count else None
    curved_covariance, curved_freedom = (None, 0) if curved is None else _covariance(curved, columns)
    if curved is None:
        notes.append(f"{rows} rows are too few for exponents of the arms' own, which need {count + 1}.")
    factors = []
    for column in scaled:
        for arm in others:
            i = shared.names.index(f"f_{column}_{arm}")
            interval = _exponential(pooled.working[i], covariance[i, i], freedom, level)
            slope, low, high, at_goal, p = Interval(float("nan")), None, None, None, float("nan")
            if curved is not None and curved_covariance is not None:
                j = free.names.index(f"g_{column}_{arm}")
                slope = _plain(curved.working[j], curved_covariance[j, j], curved_freedom, level)
                error = np.sqrt(curved_covariance[j, j])
                p = float(2 * stats.t.sf(abs(curved.working[j]) / error, curved_freedom)) if curved_freedom > 0 else p
                reference = float(columns[f"reference {column}"][0])

                def at(
                    x: float, arm: str = arm, column: str = column, reference: float = reference,
                    working: np.ndarray = curved.working, matrix: np.ndarray = curved_covariance,
                ) -> Interval:  # fmt: skip
                    w = _log_factor(arm, column, x, reference, free)
                    return _exponential(float(w @ working), float(w @ matrix @ w), curved_freedom, level)

                low, high = at(ranges[column][0]), at(ranges[column][1])
                at_goal = at(goal[column]) if column in goal else None
            none = Interval(float("nan"))
            factors.append(Factor(arm, column, interval, slope, low or none, high or none, at_goal, p))
    if curved is None or curved_freedom <= 0 or not np.isfinite(curved.objective):
        return factors, float("nan")
    extra = len(free.parameters) - len(shared.parameters)
    gain = max(pooled.objective - curved.objective, 0.0) / extra
    noise = curved.objective / curved_freedom
    return factors, float(stats.f.sf(gain / noise, extra, curved_freedom)) if noise > 0 else float("nan")


def _factors_over_seeds(
    shared: Law, free: Law, columns: Table, seeds: np.ndarray, others: Sequence[str], scaled: Sequence[str],
    ranges: Mapping[str, tuple[float, float]], goal: Mapping[str, float], level: float, pooled: Solution,
    notes: list[str],
) -> list[Factor]:  # fmt: skip
    """Return factors with Student's t intervals over seeds, each of which is fitted apart."""
    from scipy import stats

    logs: dict[str, list[float]] = {}
    for seed in dict.fromkeys(seeds.tolist()):
        rows = {name: column[seeds == seed] for name, column in columns.items()}
        if any(not rows[MARK + arm].any() for arm in others) or all(rows[MARK + arm].all() for arm in others):
            notes.append(f"Seed {seed} is left out: not every arm has runs of it.")
            continue
        flat = solve(shared, rows, starts={name: np.array([value]) for name, value in pooled.values.items()})
        bent = solve(free, rows, starts=_starts_from(flat, free))
        for column in scaled:
            reference = float(columns[f"reference {column}"][0])
            for arm in others:
                points = {"smallest": ranges[column][0], "largest": ranges[column][1]}
                points |= {"goal": goal[column]} if column in goal else {}
                values = {"shared": np.log(flat.values[f"f_{column}_{arm}"]), "slope": bent.values[f"g_{column}_{arm}"]}
                for name, x in points.items():
                    values[name] = float(_log_factor(arm, column, x, reference, free) @ bent.working)
                for name, value in values.items():
                    logs.setdefault(f"{column} {arm} {name}", []).append(float(value))
    if not logs:
        raise UserError("no seed has runs of every arm; pair the arms' seeds, or give finished runs of several sizes")
    replicates = len(next(iter(logs.values())))
    if replicates < 3:
        notes.append(f"{replicates} seeds: an interval over seeds needs three, and is wide below six.")

    def interval(key: str, *, exponential: bool = True) -> Interval:
        values = np.array(logs[key])
        freedom = len(values) - 1
        variance = float(np.var(values, ddof=1)) / len(values) if freedom > 0 else float("nan")
        return (_exponential if exponential else _plain)(float(values.mean()), variance, freedom, level)

    factors = []
    for column in scaled:
        for arm in others:
            key = f"{column} {arm} "
            slopes = np.array(logs[key + "slope"])
            p = float(stats.ttest_1samp(slopes, 0).pvalue) if len(slopes) > 2 else float("nan")
            at_goal = interval(key + "goal") if column in goal else None
            slope = interval(key + "slope", exponential=False)
            low, high = interval(key + "smallest"), interval(key + "largest")
            factors.append(Factor(arm, column, interval(key + "shared"), slope, low, high, at_goal, p))
    return factors


def _starts_from(solution: Solution, free: Law) -> dict[str, np.ndarray]:
    """Return starts of the law with free exponents from the shared ones: unchanged, and with slopes of either sign."""
    slopes = np.array([0.0, 0.05, -0.05])
    return {name: slopes if name.startswith("g_") else np.full(3, solution.values[name]) for name in free.names}


def _covariance(solution: Solution, columns: Table) -> tuple[np.ndarray, int]:
    """Return the covariance of the working parameters, s² (JᵀJ)^-1, and the degrees of freedom of s²."""
    law = solution.law
    freedom = len(columns[law.target]) - len(law.parameters)
    if freedom <= 0:
        return np.full((len(law.parameters),) * 2, np.nan), 0
    with double_precision():
        arrays = {name: np.asarray(columns[name], np.float64) for name in law.inputs}
        centers = law.centers(arrays)

        def residual(working: jax.Array) -> jax.Array:
            return LINKS[solution.link](law.predict(law.from_working(working, centers), arrays))

        jacobian = np.asarray(jax.jacfwd(residual)(np.asarray(solution.working)))
    return 2 * solution.objective / freedom * np.linalg.pinv(jacobian.T @ jacobian), freedom


def _plain(value: float, variance: float, freedom: int, level: float) -> Interval:
    from scipy import stats

    if freedom <= 0 or not np.isfinite(variance):
        return Interval(float(value))
    half = float(stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(variance))
    return Interval(float(value), float(value) - half, float(value) + half)


def _exponential(value: float, variance: float, freedom: int, level: float) -> Interval:
    interval = _plain(value, variance, freedom, level)
    return Interval(float(np.exp(interval.value)), float(np.exp(interval.low)), float(np.exp(interval.high)))
