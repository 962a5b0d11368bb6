"""Intervals of a least-squares fit to few rows: the profile of a quantity.

A limit is the value of the quantity at which the best fit with that value has RSS = RSS_min (1 + F / degrees of
freedom), with the quantile of F(1, degrees of freedom) (Bates and Watts 1988, Nonlinear Regression, section 6.1.2).
Unlike the delta method it follows the law where it bends, and stays finite where a parameter is at its bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from pathways_lite.scaling.bfgs import minimize
from pathways_lite.scaling.delta import Linearization
from pathways_lite.scaling.law import Law, double_precision
from pathways_lite.scaling.losses import LINKS, Link
from pathways_lite.scaling.quantities import Quantity

MAX_PROFILES = 64  # numbers of one quantity; more than these are limited by the delta method
PULLS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0)  # how far fits are pulled, in half-widths of the delta method
EVALUATIONS = 1000  # of one pulled fit


@dataclass(frozen=True)
class _PulledFit:
    """RSS + (q - target)² / unit², for one number q of a quantity: its minimum is on the profile of q.

    What is minimized over q is the profile plus a function of q, so any pull gives a point of the profile.
    """

    law: Law
    link: Link
    quantity: Quantity

    def __call__(self, working: Any, pull: Any, shared: Any) -> Any:
        """`pull`: target, unit and the weights that select the number; a unit of 0 pulls nothing."""
        rss, number = self.point(working, pull, shared)
        return rss + (pull[1] * (number - pull[0])) ** 2

    def point(self, working: Any, pull: Any, shared: Any) -> tuple[Any, Any]:
        """Return the RSS and the number."""
        arrays, centers, inputs = shared
        values = self.law.from_working(working, centers)
        residuals = LINKS[self.link](self.law.predict(values, arrays)) - LINKS[self.link](arrays[self.law.target])
        return jnp.sum(residuals**2), jnp.sum(pull[2:] * jnp.atleast_1d(self.quantity(values, inputs)))


def profile_half_widths(linear: Linearization, quantity: Quantity, inputs: Any, level: float) -> np.ndarray:
    """Return the distances [2, n] from a quantity to its lower and upper limits, on its scale.

    Where the profile does not reach the limit (the rows do not bound the number on that side), or for more than
    `MAX_PROFILES` numbers, they are those of the delta method.
    """
    half_widths = linear.half_widths(quantity, inputs, level)
    count = half_widths.shape[1]
    if linear.degrees_of_freedom < 1 or count > MAX_PROFILES or not linear.noise > 0:
        return half_widths
    fitted = _PulledFit(linear.law, linear.link, quantity)
    shared = (linear.arrays, linear.centers, inputs)
    radius = linear.noise * linear.quantile(level)  # of sqrt(RSS - RSS_min) at the limit
    with double_precision():
        at_best = [fitted.point(linear.working, np.r_[0, 0, row], shared) for row in np.eye(count)]
    rss, best = float(at_best[0][0]), np.array([float(number) for _, number in at_best])
    usable = np.isfinite(half_widths[0]) & (half_widths[0] > 0) & np.isfinite(best)
    pulls, owners = [], []
    for i in np.flatnonzero(usable):
        for sign in (-1.0, 1.0):
            for distance in PULLS:
                # A linear law stops half-way between its best value and the target.
                target = best[i] + sign * 2 * distance * half_widths[0, i]
                pulls.append(np.r_[target, radius / half_widths[0, i], np.eye(count)[i]])
                owners.append((i, int(sign > 0)))
    if not pulls:
        return half_widths
    starts = [linear.working, *_inner_starts(linear)]
    tasks = np.repeat(np.array(pulls), len(starts), axis=0)
    with double_precision():
        minima = minimize(fitted, shared, np.tile(starts, (len(pulls), 1)), tasks, max_evaluations=EVALUATIONS)
        best_start = minima.f.reshape(-1, len(starts)).argmin(axis=1) + np.arange(len(pulls)) * len(starts)
        points = [fitted.point(minima.x[j], tasks[j], shared) for j in best_start]
    for i, side in dict.fromkeys(owners):
        own = [j for j, owner in enumerate(owners) if owner == (i, side)]
        moved = np.abs(np.array([float(points[j][1]) for j in own]) - best[i])
        radii = np.sqrt(np.maximum([float(points[j][0]) - rss for j in own], 0))
        if limit := _crossing(moved, radii, radius):
            half_widths[side, i] = limit
    return half_widths


def _inner_starts(linear: Linearization) -> list[np.ndarray]:
    """Return a start inside the range where the fit has a parameter at zero: from there nothing pulls it back."""
    typical = float(np.median(np.abs(np.asarray(linear.arrays[linear.law.target])))) or 1.0
    inner = linear.working.copy()
    for i, parameter in enumerate(linear.law.parameters):
        scale = typical if parameter.in_target_units else 1.0
        floor = np.log(1e-3 * parameter.start_range[0] * scale) if parameter.kind == "positive" else -np.inf
        if parameter.kind == "positive" and not parameter.center and inner[i] < floor:
            inner[i] = 0.5 * (np.log(parameter.start_range[0] * scale) + np.log(parameter.start_range[1] * scale))
    return [] if np.array_equal(inner, linear.working) else [inner]


def _crossing(moved: np.ndarray, radii: np.ndarray, radius: float) -> float | None:
    """Return the distance at which the profile reaches `radius`, interpolated; None if it does not."""
    order = np.argsort(moved)
    x, y = np.r_[0.0, moved[order]], np.r_[0.0, radii[order]]
    beyond = np.flatnonzero(y >= radius)
    if not len(beyond) or not np.isfinite(x).all():
        return None
    j = beyond[0]
    return float(x[j - 1] + (radius - y[j - 1]) / (y[j] - y[j - 1]) * (x[j] - x[j - 1])) if y[j] > y[j - 1] else None
