"""A fit of a law to a table: its values, its intervals, and the data and settings needed to repeat it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.intervals import LEVEL, Interval
from pathways_lite.json_values import restore_floats
from pathways_lite.run_directory import write_json
from pathways_lite.scaling import bootstrap
from pathways_lite.scaling.checks import validate_columns
from pathways_lite.scaling.law import Columns, Law
from pathways_lite.scaling.losses import Link, Loss, parse_loss
from pathways_lite.scaling.solver import (
    Solution,
    objective_of,
    optimal_allocation,
    predict,
    predict_many,
    refit_weighted,
    solve,
)
from pathways_lite.scaling.table import Table, derive_columns, numeric_column, table_digest

FORMAT = 1


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    `samples` [bootstraps] by parameter name are the values fitted to bootstrap resamples. `jackknife` [rows, or groups]
    by parameter name are the values fitted without each row, which BCa intervals need; if it is empty, intervals are
    percentiles.
    """

    law: Law
    link: Link
    loss: Loss
    values: dict[str, float]
    objective: float
    starts: int
    reached: int
    converged: bool
    seed: int
    data: Table
    groups: np.ndarray | None = None
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    jackknife: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    origin: dict[str, Any] = field(default_factory=dict)  # the file, the column map, the dropped rows

    @property
    def rows(self) -> int:
        return len(self.data[self.law.target])

    @property
    def bootstraps(self) -> int:
        return len(next(iter(self.samples.values()), ()))

    def predicted(self) -> np.ndarray:
        """Predict the target of the fit's own rows, [rows]."""
        return predict(self.law, self.values, self.data)

    def predict(self, columns: Columns, level: float = LEVEL) -> list[Interval]:
        """Predict the target at new inputs, with the bootstrap interval of the law (not of a single run).

        Raises UserError if an input is missing.
        """
        missing = [name for name in self.law.inputs if name not in columns]
        if missing:
            raise UserError(f"{self.law.name} needs {', '.join(f'{name}=…' for name in missing)} as well")
        inputs = {name: np.atleast_1d(np.asarray(columns[name], np.float64)) for name in self.law.inputs}
        samples, jackknife = (
            predict_many(self.law, fits, inputs) if fits else None for fits in (self.samples, self.jackknife)
        )
        intervals = self._intervals(predict(self.law, self.values, inputs), samples, jackknife, level)
        return [Interval(*map(float, row)) for row in intervals.T]

    def optimal(self, C: float, level: float = LEVEL) -> dict[str, Interval]:
        """Return the compute-optimal allocation at C FLOPs by the law's closed form, with intervals.

        Raises UserError for a law without one, and if the fit has no optimum (an exponent is not positive).
        """
        if not C > 0:
            raise UserError(f"C={C:g} is not a compute budget; give positive FLOPs, e.g. C=1e21")
        optimum = {name: Interval(*map(float, rows[:, 0])) for name, rows in self.frontier([C], level).items()}
        if not all(np.isfinite(best.value) and best.value > 0 for best in optimum.values()):
            values = _format_values(self.values)
            raise UserError(f"this fit has no compute-optimal allocation: not all exponents are positive ({values})")
        return optimum

    def frontier(self, budgets: Any, level: float = LEVEL) -> dict[str, np.ndarray]:
        """Return `optimal` at several budgets: by name [3, budgets], values with their lower and upper limits.

        Values are not finite, or not positive, where there is no optimum. Raises UserError for a law without closed
        form.
        """
        if self.law.optimal is None:
            raise UserError(f"{self.law.name} has no compute-optimal allocation; chinchilla has one")
        C = np.asarray(budgets, np.float64)
        best = optimal_allocation(self.law, self.values, C)
        samples, jackknife = (
            optimal_allocation(self.law, {name: v[:, None] for name, v in fits.items()}, C) if fits else {}
            for fits in (self.samples, self.jackknife)
        )
        return {name: self._intervals(best[name], samples.get(name), jackknife.get(name), level) for name in best}

    def extrapolation_warnings(self, columns: Columns) -> list[str]:
        """Return a sentence for every input that is more than ten times outside the range of the fitted data."""
        sentences = []
        for name in self.law.inputs:
            low, high = float(self.data[name].min()), float(self.data[name].max())
            value = float(np.max(columns[name]))
            if low > 0 and (value > 10 * high or value < low / 10):
                sentences.append(f"{name}={value:.3g} is far outside the data ({low:.3g} to {high:.3g}): extrapolated.")
        return sentences

    def parameter_intervals(self, level: float = LEVEL) -> dict[str, Interval]:
        """Return the intervals of the parameters."""
        return {
            name: Interval(*map(float, self._intervals(value, self.samples.get(name), self.jackknife.get(name), level)))
            for name, value in self.values.items()
        }

    @staticmethod
    def _intervals(estimate: Any, samples: Any, jackknife: Any, level: float) -> np.ndarray:
        """Return the values [...] with their limits, [3, ...]; limits are NaN without bootstrap samples."""
        estimate = np.asarray(estimate, np.float64)
        low = high = np.full(estimate.shape, np.nan)
        if samples is not None:
            low, high = bootstrap.bootstrap_limits(samples, level, estimate=estimate, jackknife=jackknife)
        return np.stack([estimate, low, high])

    # ---- as JSON ----

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "law": self.law.name,
            "formula": self.law.formula,
            "source": self.law.source,
            "link": self.link,
            "loss": str(self.loss),
            "parameters": [{"name": p.name, "value": self.values[p.name], "unit": p.unit} for p in self.law.parameters],
            "objective": self.objective,
            "rows": self.rows,
            "starts": self.starts,
            "reached": self.reached,
            "converged": self.converged,
            "seed": self.seed,
            "bootstraps": self.bootstraps,
            "notes": list(self.notes),
            "origin": self.origin,
            "version": version("pathways-lite"),
            "digest": table_digest(self.data),
            "data": {name: column.tolist() for name, column in self.data.items()},
            "groups": None if self.groups is None else [str(group) for group in self.groups],
            "samples": {name: values.tolist() for name, values in self.samples.items()},
            "left_out": {name: values.tolist() for name, values in self.jackknife.items()},
        }

    def save(self, path: str | Path) -> None:
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Fit:
        """Read a fit. Raises UserError if the file is not a fit, or was changed by hand."""
        from pathways_lite.scaling.laws.registry import find_fitted_law

        try:
            content = restore_floats(json.loads(Path(path).read_text(encoding="utf-8")))
            data = {name: np.array(column, np.float64) for name, column in content["data"].items()}
            fit = cls(
                law=find_fitted_law(content["law"], tuple(p["name"] for p in content["parameters"])),
                link=content["link"], loss=parse_loss(content["loss"]),
                values={p["name"]: p["value"] for p in content["parameters"]}, objective=content["objective"],
                starts=content["starts"], reached=content["reached"], converged=content["converged"],
                seed=content["seed"], data=data,
                groups=None if content["groups"] is None else np.array(content["groups"], dtype=object),
                samples={name: np.array(values, np.float64) for name, values in content["samples"].items()},
                jackknife={name: np.array(values, np.float64) for name, values in content["left_out"].items()},
                notes=tuple(content["notes"]), origin=content["origin"],
            )  # fmt: skip
        except FileNotFoundError:
            raise UserError(
                f"there is no fit {path}; make one with `pathways-lite fit LAW TABLE --out {path}`"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a fit written by `pathways-lite fit` ({error})") from error
        if content["digest"] != table_digest(fit.data):
            raise UserError(f"{path}: its data are not the data that were fitted (the digest differs)")
        return fit

    def refit(self) -> Fit:
        """Fit again from the fit's own data, seed and settings."""
        again = fit_law(
            self.law, self.data, link=self.link, loss=self.loss, starts=self.starts, seed=self.seed,
            bootstraps=self.bootstraps, bca=bool(self.jackknife), groups=self.groups, units=False,
        )  # fmt: skip
        return replace(again, notes=self.notes, origin=self.origin)


def fit_law(
    law: Law,
    table: Mapping[str, np.ndarray],
    *,
    link: Link | None = None,
    loss: Loss | None = None,
    starts: int = 20,
    seed: int = 0,
    bootstraps: int = 0,
    bca: bool = False,
    groups: np.ndarray | None = None,
    units: bool = True,
    origin: Mapping[str, Any] | None = None,
) -> Fit:
    """Fit a law to a table and to `bootstraps` resamples of its rows, or of whole runs if `groups` [rows] names them.

    `bca`: correct the intervals for bias and acceleration, at the price of one more fit per row or run.

    Raises UserError if the table cannot carry the fit (`checks.validate_columns`).
    """
    columns = validate_columns(replace(law, link=link or law.link), table, units=units)
    solution = solve(law, columns, link=link, loss=loss, starts=starts, seed=seed)
    samples: dict[str, np.ndarray] = {}
    jackknife: dict[str, np.ndarray] = {}
    rows = len(columns[law.target])
    if bootstraps:
        samples = refit_weighted(solution, columns, bootstrap.resample_weights(rows, bootstraps, seed + 1, groups))
        jackknife = refit_weighted(solution, columns, bootstrap.jackknife_weights(rows, groups)) if bca else {}
    return Fit(
        law=law, link=solution.link, loss=solution.loss, values=solution.values, objective=solution.objective,
        starts=solution.starts, reached=solution.reached, converged=solution.converged, seed=seed, data=columns,
        groups=groups, samples=samples, jackknife=jackknife, notes=tuple(_notes(solution, columns)),
        origin=dict(origin or {}),
    )  # fmt: skip


def leave_largest_out(
    law: Law, table: Mapping[str, np.ndarray], *, by: str, count: int = 1, **settings: Any
) -> tuple[Fit, np.ndarray, np.ndarray]:
    """Fit without the rows of the `count` largest values of column `by`, and predict these rows.

    Returns the fit, the predictions and the measurements [held-out rows]. Raises UserError if no row would be left.
    """
    columns = validate_columns(law, table, units=settings.pop("units", True))
    sizes = numeric_column(derive_columns(table, (by,)), by)
    distinct = np.unique(sizes)
    if len(distinct) <= count:
        raise UserError(f"column {by} has {len(distinct)} different values, so the {count} largest cannot be left out")
    held_out = sizes >= distinct[-count]
    fit = fit_law(law, {name: column[~held_out] for name, column in columns.items()}, units=False, **settings)
    held_out_rows = {name: column[held_out] for name, column in columns.items()}
    return fit, predict(law, fit.values, held_out_rows), held_out_rows[law.target]


def quality(fit: Fit) -> dict[str, float]:
    """Return R² of the target, its root mean squared error, and its mean and largest relative error."""
    measured, predicted = fit.data[fit.law.target], fit.predicted()
    relative = np.abs(predicted - measured) / np.maximum(np.abs(measured), 1e-300)
    spread = float(np.sum((measured - measured.mean()) ** 2))
    return {
        "r2": 1 - float(np.sum((predicted - measured) ** 2)) / spread if spread > 0 else float("nan"),
        "rmse": float(np.sqrt(np.mean((predicted - measured) ** 2))),
        "mean_relative_error": float(relative.mean()),
        "worst_relative_error": float(relative.max()),
    }


def published_objectives(fit: Fit) -> list[tuple[str, float]]:
    """Return the objective on the fit's data of every published set of values, by its name."""
    law = fit.law
    sets = [(name, dict(zip(law.names, values, strict=True))) for name, values in law.published]
    return [(name, objective_of(law, v, fit.data, link=fit.link, loss=fit.loss)) for name, v in sets]


def _notes(solution: Solution, columns: Table) -> list[str]:
    """Return what a reader should know before trusting the fit, a sentence per note."""
    law, notes = solution.law, []
    if not solution.converged:
        notes.append("The best start ran out of evaluations, so the objective may still fall; use more starts.")
    if solution.starts > 1 and solution.reached < max(2, 0.1 * solution.starts):
        notes.append(
            f"Only {solution.reached} of {solution.starts} starts reached the best objective; use more starts."
        )
    rows = len(columns[law.target])
    if rows < 2 * len(law.parameters):
        notes.append(
            f"{rows} rows for {len(law.parameters)} parameters: residuals say little about errors on other data."
        )
    for parameter in law.parameters:
        if parameter.name in law.decay_exponents and solution.values[parameter.name] <= 0:
            notes.append(f"{parameter.name} is not positive: in these data the loss does not fall as that input grows.")
        elif parameter.in_target_units and parameter.kind == "positive":
            typical = float(np.median(np.abs(columns[law.target])))
            if solution.values[parameter.name] < 1e-4 * typical:
                notes.append(
                    f"{parameter.name} went to zero: the data show no floor, so the extrapolation has none either."
                )
    if law.remarks is not None:
        notes += law.remarks(solution.values)
    if "N" in columns and "D" in columns and np.median(columns["D"] / columns["N"]) < 1:
        notes.append("Most runs have fewer tokens than parameters. If that is wrong, N and D are swapped.")
    logs = [np.log(columns[name]) for name in law.inputs if np.all(columns[name] > 0) and np.ptp(columns[name]) > 0]
    if len(logs) > 1:
        correlations = np.abs(np.corrcoef(logs))[np.triu_indices(len(logs), 1)]
        if correlations.max() > 0.995:
            notes.append("Two inputs vary together in these data, so their effects cannot be separated.")
    return notes


def _format_values(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in values.items())
