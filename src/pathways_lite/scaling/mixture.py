"""The mixture of domains that minimizes a fitted loss: a search over the simplex, with limits on shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.intervals import LEVEL, Interval
from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.law import double_precision

STARTS = 12
MOST_SAMPLES = 200
Limits = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class OptimalMixture:
    """Shares by domain with the intervals of the refitted laws, the loss there, and for comparison that of equal
    shares.

    `best_measured` is the lowest loss among the fitted rows.
    """

    shares: dict[str, Interval]
    loss: float
    equal_loss: float
    best_measured: float
    notes: tuple[str, ...]


def optimal_mixture(
    fits: Sequence[Fit], weights: Sequence[float] | None = None, *,
    bounds: Mapping[str, tuple[float, float]] | None = None, others: Mapping[str, float] | None = None,
    level: float = LEVEL, seed: int = 0,
) -> OptimalMixture:  # fmt: skip
    """Find the shares that minimize the weighted mean of the losses of `fits`, laws over the same shares.

    `weights` of the fits are equal by default. `bounds` are limits of shares by domain; `others` are the values of the
    laws' other inputs (N, D). Shares have intervals if all fits have bootstrap samples. Raises UserError for limits
    that no mixture satisfies, and for inputs or weights that are missing.
    """
    names = fits[0].law.shares
    limits = [(bounds or {}).get(name, (0.0, 1.0)) for name in names]
    if unknown := [name for name in bounds or {} if name not in names]:
        raise UserError(f"{unknown[0]} is not a domain of the mixture; domains are {', '.join(names)}")
    if sum(low for low, _ in limits) > 1 + 1e-9 or sum(high for _, high in limits) < 1 - 1e-9:
        raise UserError("no mixture satisfies the limits: the least shares add up to over 1, or the largest to under 1")
    if missing := [n for fit in fits for n in fit.law.inputs if n not in names and n not in (others or {})]:
        raise UserError(f"{fits[0].law.name} needs {missing[0]} as well; give it, as in --at {missing[0]}=1e9")
    scale = np.ones(len(fits)) if weights is None else np.array(weights, np.float64)
    if len(scale) != len(fits) or (scale < 0).any() or scale.sum() <= 0:
        raise UserError(f"give a weight that is not negative for each of the {len(fits)} targets")
    scale = scale / scale.sum()
    objective = _Objective(fits, scale, names, dict(others or {}))
    rng = np.random.default_rng(seed)
    equal = np.full(len(names), 1 / len(names))
    starts = [_into_limits(start, limits) for start in (equal, *rng.dirichlet(np.ones(len(names)), STARTS))]
    found = [_minimize(objective, [fit.values for fit in fits], limits, start) for start in starts]
    best, loss = min(found, key=lambda pair: pair[1])
    samples = []
    for i in range(
        min(MOST_SAMPLES, *(fit.bootstraps for fit in fits)) if len(fits) > 1 else min(MOST_SAMPLES, fits[0].bootstraps)
    ):
        drawn = [{name: float(column[i]) for name, column in fit.samples.items()} for fit in fits]
        candidates = [_minimize(objective, drawn, limits, start) for start in (best, *starts[:3])]
        samples.append(min(candidates, key=lambda pair: pair[1])[0])
    shares = {}
    for j, name in enumerate(names):
        tails = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile([sample[j] for sample in samples], tails) if samples else (np.nan, np.nan)
        shares[name] = Interval(float(best[j]), float(low), float(high))
    measured = np.sum([w * fit.data[fit.law.target] for w, fit in zip(scale, fits, strict=True)], axis=0)
    equal_loss = objective(equal, [fit.values for fit in fits])[0]
    return OptimalMixture(shares, loss, equal_loss, float(np.min(measured)), tuple(_notes(fits, names, best, limits)))


class _Objective:
    """The weighted loss over shares, and its gradient, compiled once for all values of the parameters."""

    def __init__(
        self, fits: Sequence[Fit], weights: np.ndarray, names: Sequence[str], others: dict[str, float]
    ) -> None:
        laws = [fit.law for fit in fits]

        def loss(shares: Any, values: list[dict[str, Any]]) -> Any:
            columns = {name: shares[i : i + 1] for i, name in enumerate(names)}
            columns |= {name: jnp.full(1, value) for name, value in others.items()}
            terms = [w * law.predict(v, columns)[0] for w, law, v in zip(weights, laws, values, strict=True)]
            return sum(terms)

        self._value_and_grad = jax.jit(jax.value_and_grad(loss))

    def __call__(self, shares: np.ndarray, values: Sequence[Mapping[str, float]]) -> tuple[float, np.ndarray]:
        with double_precision():
            as_arrays = [{name: jnp.float64(value) for name, value in v.items()} for v in values]
            value, gradient = self._value_and_grad(jnp.asarray(shares, jnp.float64), as_arrays)
        return float(value), np.asarray(gradient)


def _into_limits(shares: np.ndarray, limits: Limits) -> np.ndarray:
    """Return the nearest shares by one common shift that satisfy the limits and add up to one."""
    from scipy import optimize

    low, high = np.array(limits).T
    result = optimize.brentq(lambda shift: np.clip(shares + shift, low, high).sum() - 1, -2, 2)
    return np.clip(shares + result, low, high)


def _minimize(
    objective: _Objective, values: Sequence[Mapping[str, float]], limits: Limits, start: np.ndarray
) -> tuple[np.ndarray, float]:
    from scipy import optimize

    result = optimize.minimize(
        lambda shares: objective(shares, values), start, jac=True, method="SLSQP", bounds=list(limits),
        constraints={"type": "eq", "fun": lambda s: s.sum() - 1, "jac": np.ones_like},
        options={"maxiter": 300, "ftol": 1e-12},
    )  # fmt: skip
    shares = _into_limits(np.nan_to_num(result.x, nan=1 / len(start)), limits)
    return shares, objective(shares, values)[0]


def _notes(fits: Sequence[Fit], names: Sequence[str], best: np.ndarray, limits: Limits) -> list[str]:
    notes = []
    if len(fits) == 1 and fits[0].law.name.partition(":")[0] in ("mixing", "linear-mixing"):
        notes.append(
            "For one target this law always has its optimum at the limits of the shares; give several targets (losses "
            "by domain), or limits with --at-most and --at-least."
        )
    outside = []
    for j, name in enumerate(names):
        seen = fits[0].data[name]
        if best[j] > seen.max() + 1e-9 or best[j] < seen.min() - 1e-9:
            outside.append(f"{name} ({seen.min():.3g} to {seen.max():.3g} measured)")
    if outside:
        notes.append(f"The optimum is outside the measured shares of {', '.join(outside)}: an extrapolation.")
    return notes
