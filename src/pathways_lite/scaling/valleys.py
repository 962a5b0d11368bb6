"""How well the rows determine each parameter: profiles of the objective, spreads and correlations.

A profile is the best objective that is left with one parameter held at a value. Where it is flat, the rows do not tell
values apart; where two parameters are correlated, a valley runs across both, and only their combination is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from pathways_lite.scaling.bfgs import minimize
from pathways_lite.scaling.delta import Linearization
from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.law import Law, double_precision, to_natural
from pathways_lite.scaling.losses import LINKS, LeastSquares, Link, Loss
from pathways_lite.scaling.quantities import ParameterVector
from pathways_lite.scaling.uncertainty import linearization

DISTANCES = (0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0)  # standard errors to which a parameter is pulled, both ways
STIFFNESS = 4.0  # of a pull, in curvatures of the objective: it goes 4/5 of the way to its target
EVALUATIONS = 1000  # of one pulled fit
MAX_PARAMETERS, MAX_ROWS = 12, 20_000
MIN_SAMPLES = 10


@dataclass(frozen=True)
class Profile:
    """Values of a parameter [points], ascending, and the best objective with each over that of the fit, at least 1."""

    values: np.ndarray
    ratios: np.ndarray


@dataclass(frozen=True)
class _Pulled:
    """The objective + (unit (q - target))² for one parameter q, on its fitting scale: its minimum is on q's profile."""

    law: Law
    link: Link
    loss: Loss

    def __call__(self, working: Any, pull: Any, shared: Any) -> Any:
        """`pull`: target, unit, and the weights that select the parameter."""
        objective, parameters = self.point(working, shared)
        return objective + (pull[1] * (jnp.sum(pull[2:] * parameters) - pull[0])) ** 2

    def point(self, working: Any, shared: Any) -> tuple[Any, Any]:
        """Return the objective, and all parameters on their fitting scales."""
        arrays, centers = shared
        values = self.law.from_working(working, centers)
        link = LINKS[self.link]
        residuals = link(self.law.predict(values, arrays)) - link(arrays[self.law.target])
        return jnp.sum(self.loss(residuals)), ParameterVector(self.law)(values, None)


def profiles(fit: Fit) -> dict[str, Profile]:
    """Return the profile of every parameter that the rows determine at all.

    There is none for exact data, for as many rows as parameters, and for tables or laws that are too large to show.
    """
    law = fit.law
    if fit.rows > MAX_ROWS or len(law.parameters) > MAX_PARAMETERS or fit.rows <= len(law.parameters):
        return {}
    linear = linearization(fit)
    errors = linear.standard_error(ParameterVector(law), None)
    # Further where resamples vary more, but not as far as a floor that some of them lose.
    errors = np.fmax(errors, np.fmin(standard_deviations(fit), 2 * errors))
    scale = fit.objective / linear.degrees_of_freedom  # by which the objective rises one standard error away
    if not (scale > 1e-20 and np.isfinite(errors).all()):
        return {}
    pulled = _Pulled(law, fit.link, fit.loss)
    shared = (linear.arrays, linear.centers)
    with double_precision():
        best, at_best = (np.asarray(part) for part in pulled.point(linear.working, shared))
    usable = np.flatnonzero((errors > 0) & (errors < 5) & np.isfinite(at_best))
    steps = np.array([sign * distance for sign in (-1, 1) for distance in DISTANCES])
    pulls = [
        np.r_[at_best[i] + step * errors[i] * (1 + 1 / STIFFNESS), np.sqrt(STIFFNESS * scale) / errors[i], row]
        for i in usable
        for row in (np.eye(len(errors))[i],)
        for step in steps
    ]
    if not pulls:
        return {}
    with double_precision():
        starts = np.repeat(linear.working[None], len(pulls), axis=0)
        minima = minimize(pulled, shared, starts, np.array(pulls), max_evaluations=EVALUATIONS)
        points = [tuple(map(np.asarray, pulled.point(x, shared))) for x in minima.x]
    found = {}
    for k, i in enumerate(usable):
        own = points[k * len(steps) : (k + 1) * len(steps)]
        q = np.array([at_best[i], *(parameters[i] for _, parameters in own)])
        ratios = np.array([1.0, *(objective / best for objective, _ in own)])
        order = np.argsort(q)
        parameter = law.parameters[i]
        with double_precision():
            found[parameter.name] = Profile(np.asarray(to_natural(parameter, jnp.asarray(q[order]))), ratios[order])
    return found


def limit_ratio(fit: Fit, level: float = 0.95) -> float | None:
    """Return the ratio of objectives at the limits of a parameter's interval; None where it is not known.

    For least squares 1 + t²/degrees of freedom (Bates and Watts 1988, section 6.1.2).
    """
    linear = linearization(fit)
    if not isinstance(fit.loss, LeastSquares) or linear.degrees_of_freedom < 1:
        return None
    return 1 + linear.quantile(level) ** 2 / linear.degrees_of_freedom


def _scaled_samples(fit: Fit) -> np.ndarray | None:
    """Return the bootstrap's values of the parameters on their fitting scales, [samples, parameters]."""
    if fit.bootstraps < MIN_SAMPLES:
        return None
    with double_precision(), np.errstate(all="ignore"):
        values = {name: jnp.asarray(samples) for name, samples in fit.samples.items()}
        scaled = np.asarray(ParameterVector(fit.law)(values, None)).T
    return scaled[np.isfinite(scaled).all(axis=1)]


def _linear(fit: Fit) -> Linearization | None:
    return None if fit.method is None or fit.rows <= len(fit.law.parameters) else linearization(fit)


def standard_deviations(fit: Fit) -> np.ndarray:
    """Return the standard deviations [parameters] on the fitting scales; NaN for a fit without intervals.

    That of the logarithm of a positive parameter is a factor: e to its power, up or down.
    """
    samples = _scaled_samples(fit)
    if samples is not None and len(samples) > 1:
        return np.std(samples, axis=0)
    linear = _linear(fit)
    return np.full(len(fit.law.parameters), np.nan) if linear is None else linear.standard_error(
        ParameterVector(fit.law), None
    )  # fmt: skip


def correlations(fit: Fit) -> np.ndarray | None:
    """Return the correlations [parameters, parameters] on the fitting scales; None where they are not known."""
    samples = _scaled_samples(fit)
    if samples is not None and len(samples) >= MIN_SAMPLES:
        covariance = np.cov(samples.T).reshape(len(fit.law.parameters), -1)
    elif (linear := _linear(fit)) is not None:
        covariance = linear.covariance_of(ParameterVector(fit.law), None)
    else:
        return None
    deviations = np.sqrt(np.diag(covariance))
    if not (np.isfinite(covariance).all() and (deviations > 0).all()):
        return None
    return np.clip(covariance / np.outer(deviations, deviations), -1, 1)
