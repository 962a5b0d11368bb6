"""The intervals of a fit, of three kinds: of the law, of a run, and of a forecast.

- law: where the law's value may be, given the rows.
- run: where a new run may end, inside the range of the data: the law and the noise of one run.
- forecast: where a run may end beyond the data: that of a run, widened by what rehearsals missed (`rehearsal.py`).

The law's interval is a bootstrap where there are many rows per parameter, or where whole runs are drawn; otherwise the
delta method and, for predictions of a fit by least squares, their profile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.scaling import bootstrap
from pathways_lite.scaling.delta import Linearization, linearize
from pathways_lite.scaling.law import Law, double_precision
from pathways_lite.scaling.losses import INVERSE_LINKS, LINKS, LeastSquares, Loss
from pathways_lite.scaling.profile import profile_half_widths
from pathways_lite.scaling.quantities import Allocation, ParameterVector, Prediction, Quantity
from pathways_lite.scaling.rehearsal import extrapolation
from pathways_lite.scaling.solver import predict, predict_many

if TYPE_CHECKING:
    from pathways_lite.scaling.fit import Fit

Kind = Literal["law", "run", "forecast"]
"""Of what an interval is."""
KINDS: tuple[Kind, ...] = ("law", "run", "forecast")

Method = Literal["bootstrap", "profile", "delta"]
"""How the interval of the law is found."""
METHODS: tuple[Method, ...] = ("bootstrap", "profile", "delta")

ROWS_PER_PARAMETER = 10  # fewer, and a bootstrap of rows is too short
NOISE_DRAWS = 8  # residuals that are added to each bootstrap sample


def choose_method(law: Law, rows: int, loss: Loss, *, grouped: bool) -> Method | None:
    """Return the method for a table of `rows`; None where no interval is honest.

    There is none for as many rows as parameters, nor for averages over problems if rows do not name the problems.
    """
    if law.averaged and not grouped:
        return None
    if grouped or rows >= ROWS_PER_PARAMETER * len(law.parameters):
        return "bootstrap"
    if rows <= len(law.parameters):
        return None
    return "profile" if isinstance(loss, LeastSquares) else "delta"


def parse_method(text: str) -> Method:
    """Return the method of that name. Raises UserError for an unknown one."""
    for method in METHODS:
        if text == method:
            return method
    raise UserError(f"there are no intervals by {text!r}.{did_you_mean(text, METHODS)}")


def linearization(fit: Fit) -> Linearization:
    """Linearize a fit at its values."""
    return linearize(fit.law, fit.values, fit.data, fit.link, fit.loss)


def prediction_limits(fit: Fit, inputs: Mapping[str, np.ndarray], level: float, kind: Kind) -> np.ndarray:
    """Return the limits [2, rows] of the target at new inputs; NaN where the fit has no intervals of this kind."""
    rows = len(next(iter(inputs.values())))
    if fit.method is None or (kind != "law" and fit.law.averaged) or (kind == "forecast" and fit.rehearsal is None):
        return np.full((2, rows), np.nan)
    values = predict(fit.law, fit.values, inputs)
    if kind == "law":
        if fit.method == "bootstrap":
            samples, left_out = (predict_many(fit.law, f, inputs) if f else None for f in (fit.samples, fit.jackknife))
            return _bootstrap_limits(fit, values, samples, left_out, level)
        return _small_sample_limits(fit, Prediction(fit.law, fit.link), inputs, level)
    with double_precision():
        best = np.asarray(LINKS[fit.link](values))
    half_widths = _half_widths_of_a_run(fit, inputs, best, level)
    if kind == "forecast":
        half_widths = half_widths * forecast_factor(fit, inputs)
    with double_precision():
        return np.asarray(INVERSE_LINKS[fit.link](np.stack([best - half_widths[0], best + half_widths[1]])))


def _half_widths_of_a_run(fit: Fit, inputs: Mapping[str, np.ndarray], best: np.ndarray, level: float) -> np.ndarray:
    """Return the distances [2, rows] from the prediction to the limits of a run, on the scale of the link."""
    if fit.method != "bootstrap":
        linear = linearization(fit)
        law_widths = _half_widths(fit, linear, Prediction(fit.law, fit.link), inputs, level)
        return np.hypot(law_widths, linear.quantile(level) * linear.noise)
    with double_precision():
        samples = np.asarray(LINKS[fit.link](predict_many(fit.law, fit.samples, inputs)))
        measured, predicted = (np.asarray(LINKS[fit.link](y)) for y in (fit.data[fit.law.target], fit.predicted()))
    rows, parameters = len(measured), len(fit.law.parameters)
    residuals = (measured - predicted) * math.sqrt(rows / max(rows - parameters, 1))
    draws = np.random.default_rng(fit.seed + 2).choice(residuals, (NOISE_DRAWS, len(samples), 1))
    widened = best + (samples - best) * _few_groups_factor(fit, level)
    runs = (widened[None] + draws).reshape(-1, len(best))
    low, high = bootstrap.bootstrap_limits(runs, level)
    return np.maximum(np.stack([best - low, high - best]), 0)


def forecast_factor(fit: Fit, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return by how much [rows] a run's interval is widened: 1 inside the data, the rehearsals' factor beyond them.

    A row is beyond the data if its size (the column that rehearsals left out by) or an input is out of their range.
    Beyond the furthest rehearsal the factor grows with the logarithm of the size.
    """
    assert fit.rehearsal is not None
    factor = fit.rehearsal.factor
    if not fit.rehearsal.by:
        return np.full(len(next(iter(inputs.values()))), factor)
    beyond = np.log(np.maximum(extrapolation(fit.law, fit.data, inputs, fit.rehearsal.by), 1))
    is_outside = beyond > 0
    for name in fit.law.inputs:
        values, fitted = np.asarray(inputs[name]), fit.data[name]
        is_outside = is_outside | (values > fitted.max() * (1 + 1e-9)) | (values < fitted.min() * (1 - 1e-9))
    rehearsed = math.log(max(fit.rehearsal.furthest, 1 + 1e-9))
    return np.where(is_outside, factor * np.maximum(1, beyond / rehearsed), 1.0)


def parameter_limits(fit: Fit, level: float) -> np.ndarray:
    """Return the limits [2, parameters] of the law's parameters, in its order."""
    if fit.method is None:
        return np.full((2, len(fit.law.parameters)), np.nan)
    if fit.method != "bootstrap":
        return _small_sample_limits(fit, ParameterVector(fit.law), None, level)
    samples = np.stack([fit.samples[name] for name in fit.law.names], axis=-1)
    left_out = np.stack([fit.jackknife[name] for name in fit.law.names], axis=-1) if fit.jackknife else None
    return _bootstrap_limits(fit, fit.law.vector(fit.values), samples, left_out, level)


def allocation_limits(fit: Fit, name: str, best: np.ndarray, samples: Any, left_out: Any, C: Any, level: float) -> Any:
    """Return the limits [2, budgets] of one number of the compute-optimal allocation."""
    if fit.method is None or not np.all(np.isfinite(best) & (best > 0)):
        return np.full((2, len(best)), np.nan)
    if fit.method == "bootstrap":
        return _bootstrap_limits(fit, best, samples, left_out, level)
    return _small_sample_limits(fit, Allocation(fit.law, name), np.asarray(C, np.float64), level)


def _half_widths(fit: Fit, linear: Linearization, quantity: Quantity, inputs: Any, level: float) -> np.ndarray:
    # Of predictions only: the linearized logarithms of parameters and optima are nearly as good, and much faster.
    if fit.method == "profile" and isinstance(quantity, Prediction):
        return profile_half_widths(linear, quantity, inputs, level)
    return linear.half_widths(quantity, inputs, level)


def _small_sample_limits(fit: Fit, quantity: Quantity, inputs: Any, level: float) -> np.ndarray:
    """Return the limits [2, n] of a quantity by its profile or linearization."""
    linear = linearization(fit)
    widths = _half_widths(fit, linear, quantity, inputs, level)
    with double_precision():
        best = np.atleast_1d(np.asarray(quantity(fit.values, inputs)))
        return np.asarray(quantity.natural(np.stack([best - widths[0], best + widths[1]])))


def _bootstrap_limits(fit: Fit, best: np.ndarray, samples: Any, left_out: Any, level: float) -> np.ndarray:
    """Return the percentile or BCa limits [2, ...] of bootstrap samples, wider where few groups were drawn."""
    limits = np.stack(bootstrap.bootstrap_limits(samples, level, estimate=best, jackknife=left_out))
    factor = _few_groups_factor(fit, level)
    if factor == 1:
        return limits
    if np.all(limits > 0) and np.all(best > 0):
        return best * (limits / best) ** factor
    return best + (limits - best) * factor


def _few_groups_factor(fit: Fit, level: float) -> float:
    """Return how much wider the bootstrap of few groups must be: sqrt(G/(G-1)) and Student's t over the normal.

    A resample of G groups varies less than G groups do (Davison and Hinkley 1997, section 2.3), and quantiles of the
    normal distribution do not pay for the unknown variance. 1 for rows, and for ten groups per parameter.
    """
    from scipy import stats

    if fit.groups is None:
        return 1.0
    groups = len(np.unique(np.asarray(fit.groups).astype(str)))
    if groups >= ROWS_PER_PARAMETER * len(fit.law.parameters):
        return 1.0
    tail = (1 + level) / 2
    return math.sqrt(groups / (groups - 1)) * float(stats.t.ppf(tail, groups - 1) / stats.norm.ppf(tail))
