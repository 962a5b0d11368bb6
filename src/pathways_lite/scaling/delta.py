"""Intervals of a fit to few rows by its linearization: the delta method with Student's t.

A bootstrap of few rows does not pay for the parameters that the rows determine, and many of its resamples lose a row or
column of the grid: docs/results/ladder.md has the coverage of both. Residuals are taken on the scale of the fit's link,
the variance of one row is RSS / (rows - parameters), and limits are quantiles of Student's t with that many degrees of
freedom (Seber and Wild 1989, Nonlinear Regression, sections 5.1 and 5.4; Bates and Watts 1988, chapter 6).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.scaling.law import Columns, Law, Values, double_precision
from pathways_lite.scaling.losses import LINKS, Huber, LeastAbsolute, Link, Loss
from pathways_lite.scaling.quantities import Quantity


@dataclass(frozen=True)
class Linearization:
    """A fit, linearized at its optimum.

    `covariance` [parameters, parameters] is that of the working parameters; `noise` is the standard deviation of one
    row's residual on the scale of the link; `arrays` are the rows that it was computed from.
    """

    law: Law
    link: Link
    working: np.ndarray  # [parameters]
    centers: Mapping[str, Any]
    arrays: Mapping[str, Any]
    covariance: np.ndarray
    noise: float
    degrees_of_freedom: int

    def quantile(self, level: float) -> float:
        """Return the half-width of an interval of `level` in standard errors; infinite without degrees of freedom."""
        from scipy import stats

        if self.degrees_of_freedom < 1:
            return math.inf
        return float(stats.t.ppf((1 + level) / 2, self.degrees_of_freedom))

    def _gradient(self, quantity: Quantity, inputs: Any) -> np.ndarray:
        with double_precision():
            _, gradient = _quantity_and_gradient(quantity, self.law, self.working, self.centers, inputs)
            return np.nan_to_num(np.asarray(gradient))

    def covariance_of(self, quantity: Quantity, inputs: Any) -> np.ndarray:
        """Return the covariance [n, n] of a quantity on its scale."""
        gradient = self._gradient(quantity, inputs)
        return gradient @ self.covariance @ gradient.T

    def standard_error(self, quantity: Quantity, inputs: Any) -> np.ndarray:
        """Return the standard errors [n] of a quantity on its scale."""
        gradient = self._gradient(quantity, inputs)
        return np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", gradient, self.covariance, gradient), 0))

    def half_widths(self, quantity: Quantity, inputs: Any, level: float) -> np.ndarray:
        """Return the distances [2, n] from a quantity to its lower and upper limits, on its scale."""
        errors = self.quantile(level) * self.standard_error(quantity, inputs)
        return np.stack([errors, errors])


def linearize(
    law: Law, values: Values, columns: Columns, link: Link, loss: Loss, *, rows: np.ndarray | None = None
) -> Linearization:
    """Linearize the fit `values` of `law` to the rows of `columns`, or to those that the mask `rows` [rows] selects.

    A robust loss gives estimates that vary more than those of least squares where the noise is normal; their variance
    is multiplied accordingly (`loss_inefficiency`).
    """
    with double_precision():
        arrays = {name: np.asarray(columns[name], np.float64) for name in (*law.inputs, law.target)}
        centers = {name: np.asarray(mean) for name, mean in law.centers(arrays).items()}
        if rows is not None:
            arrays = {name: array[rows] for name, array in arrays.items()}
        working = np.asarray(law.to_working({name: values[name] for name in law.names}, centers))
        residuals, jacobian = map(np.asarray, _residuals_and_jacobian(law, link, working, centers, arrays))
    jacobian = np.nan_to_num(jacobian)
    degrees = len(residuals) - len(law.parameters)
    variance = float(np.sum(residuals**2)) / max(degrees, 1)
    # Columns of equal length before the inverse: parameters may differ by orders of magnitude in their effect.
    lengths = np.linalg.norm(jacobian, axis=0)
    lengths = np.where(lengths > 0, lengths, np.inf)
    inverse = np.linalg.pinv((jacobian / lengths).T @ (jacobian / lengths), rcond=1e-13, hermitian=True)
    covariance = loss_inefficiency(loss, math.sqrt(variance)) * variance * inverse / np.outer(lengths, lengths)
    return Linearization(law, link, working, centers, arrays, covariance, math.sqrt(variance), degrees)


def loss_inefficiency(loss: Loss, noise: float) -> float:
    """Return the variance of the loss's estimates over that of least squares, for normal residuals of sd `noise`.

    1 for least squares, pi/2 for absolute losses, between them for Huber's (Huber 1964, section 6): with k = delta /
    noise, (E psi²) / (E psi')² where psi clips at k.
    """
    from scipy import stats

    if isinstance(loss, LeastAbsolute):
        return math.pi / 2
    if not isinstance(loss, Huber):
        return 1.0
    k = loss.delta / noise if noise > 0 else math.inf
    if k > 10:
        return 1.0
    if k < 1e-4:
        return math.pi / 2
    inside = 2 * stats.norm.cdf(k) - 1
    squared = inside - 2 * k * stats.norm.pdf(k) + 2 * k * k * stats.norm.sf(k)
    return float(squared / inside**2)


# ---- compiled once per law, link, quantity and shapes ----


@functools.partial(jax.jit, static_argnums=(0, 1))
def _residuals_and_jacobian(law: Law, link: Link, working: Any, centers: Any, arrays: Any) -> tuple[Any, Any]:
    """Return the residuals [rows] on the scale of the link, and minus their derivatives [rows, parameters]."""

    def predicted(w: Any) -> Any:
        return LINKS[link](law.predict(law.from_working(w, centers), arrays))

    return LINKS[link](arrays[law.target]) - predicted(working), jax.jacfwd(predicted)(working)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _quantity_and_gradient(quantity: Quantity, law: Law, working: Any, centers: Any, inputs: Any) -> tuple[Any, Any]:
    """Return a quantity [n] and its derivatives [n, parameters]."""

    def of(w: Any) -> Any:
        return jnp.atleast_1d(quantity(law.from_working(w, centers), inputs))

    return of(working), jax.jacfwd(of)(working)
