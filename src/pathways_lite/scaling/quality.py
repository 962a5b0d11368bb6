"""How well a fit describes its own rows, and what published values say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pathways_lite.scaling.law import double_precision
from pathways_lite.scaling.losses import LINKS
from pathways_lite.scaling.solver import objective_of, predict
from pathways_lite.scaling.table import Table

if TYPE_CHECKING:
    from pathways_lite.scaling.fit import Fit

WORST_ROWS = 3
ARM_OF_ROW = "arm_of_row"
"""Key of a fit's origin: by what every row differs from others with its inputs, other than a seed: arm, settings."""


@dataclass(frozen=True)
class WorstRow:
    """A row that the law misses; `error` is measured minus predicted, relative to measured: NaN where that is 0."""

    name: str
    measured: float
    predicted: float
    error: float
    index: int  # from 0


def quality(fit: Fit) -> dict[str, float]:
    """Return R² of the target and of its link, its root mean squared error, and mean and largest relative error.

    Of a law of averages, rows with equal inputs are averaged first. Relative errors are of rows that are not 0.
    """
    measured, predicted, scaled_measured, scaled_predicted = _averages(fit)
    nonzero = measured != 0
    relative = np.abs(relative_errors(measured, predicted)[nonzero]) if nonzero.any() else np.array([np.nan])
    return {
        "r2": _r2(measured, predicted),
        "r2_of_link": _r2(scaled_measured, scaled_predicted),
        "rmse": float(np.sqrt(np.mean((predicted - measured) ** 2))),
        "mean_relative_error": float(relative.mean()),
        "worst_relative_error": float(relative.max()),
    }


def relative_errors(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return (measured - predicted) / |measured| [rows], NaN where 0 was measured."""
    nonzero = measured != 0
    return np.where(nonzero, (measured - predicted) / np.where(nonzero, np.abs(measured), 1.0), np.nan)


def link_residuals(fit: Fit) -> np.ndarray:
    """Return measured minus predicted [rows] on the scale of the link, on which the law was fitted."""
    with double_precision():
        measured, predicted = (np.asarray(LINKS[fit.link](y)) for y in (fit.data[fit.law.target], fit.predicted()))
    return measured - predicted


def _averages(fit: Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return measured and predicted targets, then both on the scale of the link; averages of a law of averages."""
    rows = averaged_rows(fit)
    measured, predicted = rows[fit.law.target], predict(fit.law, fit.values, rows)
    with double_precision():
        scaled = [np.asarray(LINKS[fit.link](y)) for y in (measured, predicted)]
    return measured, predicted, scaled[0], scaled[1]


def averaged_rows(fit: Fit) -> Table:
    """Return the fit's rows; of a law of averages, one row for every different input."""
    return average_rows(fit.data, fit.law.inputs, fit.law.target) if fit.law.averaged else fit.data


def average_rows(table: Table, inputs: tuple[str, ...], target: str) -> Table:
    """Return one row for every different input, with the mean of the target."""
    points, index = np.unique(np.stack([table[name] for name in inputs], axis=1), axis=0, return_inverse=True)
    means = np.bincount(index.ravel(), table[target]) / np.bincount(index.ravel())
    return {**dict(zip(inputs, points.T, strict=True)), target: means}


def _r2(measured: np.ndarray, predicted: np.ndarray) -> float:
    spread = float(np.sum((measured - measured.mean()) ** 2))
    return 1 - float(np.sum((predicted - measured) ** 2)) / spread if spread > 0 else float("nan")


def noise_of_runs(fit: Fit) -> tuple[float, int]:
    """Return the standard deviation of one run on the scale of the link, and how many repeats it is from.

    Repeats are rows with equal inputs (other seeds), of one arm and of equal settings where the table tells. Without
    any (0), it is that of the residuals, which also have what the law does not describe.
    """
    with double_precision():
        scaled = np.asarray(LINKS[fit.link](fit.data[fit.law.target]))
    inputs = np.stack([fit.data[name].reshape(fit.rows, -1)[:, 0] for name in fit.law.inputs], axis=1)
    arms = fit.origin.get(ARM_OF_ROW, ())
    if len(arms) == fit.rows:
        inputs = np.column_stack([inputs, np.unique(np.asarray(arms, dtype=str), return_inverse=True)[1]])
    index = np.unique(inputs, axis=0, return_inverse=True)[1].ravel()
    counts = np.bincount(index)
    repeats = int(len(index) - len(counts))
    means = np.bincount(index, scaled) / counts
    spread = float(np.sum((scaled - means[index]) ** 2))
    if repeats and spread > 0:
        return float(np.sqrt(spread / repeats)), repeats
    degrees = max(fit.rows - len(fit.law.parameters), 1)
    return float(np.sqrt(np.sum(link_residuals(fit) ** 2) / degrees)), 0


def describe_intervals(fit: Fit) -> str:
    """State in a sentence how the intervals of a fit were found."""
    match fit.method:
        case "bootstrap":
            what = "rows" if fit.groups is None else "whole runs"
            how = "percentiles corrected for bias and acceleration" if fit.jackknife else "percentiles"
            return f"Intervals from {fit.bootstraps} bootstrap resamples of {what}: {how}."
        case "delta" | "profile":
            degrees = fit.rows - len(fit.law.parameters)
            kind = "the profile of the prediction" if fit.method == "profile" else "the delta method"
            return f"Intervals by {kind}, with Student's t for {degrees} degrees of freedom: rows are few."
        case None:
            return "There are no intervals."


def format_noise(fit: Fit) -> str:
    """Format the noise of a run, as a share of the target where residuals are logarithms."""
    noise, repeats = noise_of_runs(fit)
    amount = f"{noise:.2%}" if fit.link == "log" else f"{noise:.4g}"
    return f"{amount} ({f'from {repeats} repeats' if repeats else 'residuals, as no inputs repeat'})"


def worst_rows(fit: Fit, count: int = WORST_ROWS) -> list[WorstRow]:
    """Return the rows with the largest residuals, by name, or by number (from 1) if they have none."""
    measured, predicted = fit.data[fit.law.target], fit.predicted()
    errors = relative_errors(measured, predicted)
    order = np.argsort(-np.abs(np.nan_to_num(link_residuals(fit))), kind="stable")[:count]
    return [
        WorstRow(row_name(fit, i), float(measured[i]), float(predicted[i]), float(errors[i]), i)
        for i in map(int, order)
    ]


def row_name(fit: Fit, row: int) -> str:
    """Return the name of a row, that of its group where rows have none, or its number from 1."""
    names = fit.groups if fit.row_names is None else fit.row_names
    return f"row {row + 1}" if names is None else f"{names[row]} (row {row + 1})"


def published_objectives(fit: Fit) -> list[tuple[str, float]]:
    """Return the objective on the fit's data of every published set of values, by its name."""
    law = fit.law
    sets = [(name, dict(zip(law.names, values, strict=True))) for name, values in law.published]
    return [(name, objective_of(law, v, fit.data, link=fit.link, loss=fit.loss)) for name, v in sets]
