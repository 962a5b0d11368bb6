"""A fit as a record: what was fitted to what, how, how far it can be trusted, and everything needed to repeat it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.run_directory import write_json
from pathways_lite.scaling import bootstrap
from pathways_lite.scaling.checks import checked
from pathways_lite.scaling.law import Columns, Law
from pathways_lite.scaling.losses import Link, Loss, parse_loss
from pathways_lite.scaling.solver import (
    Solution,
    allocate,
    objective_of,
    predict,
    predict_many,
    resolve_weighted,
    solve,
)
from pathways_lite.scaling.table import Table, digest, numeric, with_derived

FORMAT = 1


@dataclass(frozen=True)
class Interval:
    """A value with the limits of its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A fitted law. `samples` [bootstraps] by parameter name are the values that resampled rows give.

    `left_out` [rows, or groups], of the same names, are the values without each of the rows: what BCa intervals need
    besides. Where it is empty, intervals are percentiles.
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
    left_out: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    origin: dict[str, Any] = field(default_factory=dict)  # the file, the column map, what was dropped

    @property
    def rows(self) -> int:
        return len(self.data[self.law.target])

    @property
    def bootstraps(self) -> int:
        return len(next(iter(self.samples.values()), ()))

    def predicted(self) -> np.ndarray:
        """The law at the fit's own rows."""
        return predict(self.law, self.values, self.data)

    def predict(self, columns: Columns, level: float = 0.95) -> list[Interval]:
        """The law's target at new inputs, with the interval of the bootstrap (of the law, not of one run).

        Raises UserError where an input is missing.
        """
        missing = [name for name in self.law.inputs if name not in columns]
        if missing:
            raise UserError(f"{self.law.name} needs {', '.join(f'{name}=…' for name in missing)} as well")
        inputs = {name: np.atleast_1d(np.asarray(columns[name], np.float64)) for name in self.law.inputs}
        many, away = (predict_many(self.law, fits, inputs) if fits else None for fits in (self.samples, self.left_out))
        limits = self._limits(predict(self.law, self.values, inputs), many, away, level)
        return [Interval(*map(float, row)) for row in limits.T]

    def optimal(self, C: float, level: float = 0.95) -> dict[str, Interval]:
        """The compute-optimal allocation at C FLOPs by the law's closed form, with intervals.

        Raises UserError for a law without one, and where the fit has no optimum (an exponent that is not positive).
        """
        if not C > 0:
            raise UserError(f"C={C:g} is no compute; give FLOPs, e.g. C=1e21")
        found = {name: Interval(*map(float, limits[:, 0])) for name, limits in self.frontier([C], level).items()}
        if not all(np.isfinite(best.value) and best.value > 0 for best in found.values()):
            raise UserError(
                f"this fit has no compute-optimal allocation: not all exponents are positive ({_shown(self.values)})"
            )
        return found

    def frontier(self, budgets: Any, level: float = 0.95) -> dict[str, np.ndarray]:
        """`optimal` at several computes: by name [3, budgets], values and their lower and upper limits.

        Not finite, or not positive, where there is no optimum. Raises UserError for a law without closed form.
        """
        if self.law.optimal is None:
            raise UserError(f"{self.law.name} has no compute-optimal allocation; chinchilla has one")
        C = np.asarray(budgets, np.float64)
        best = allocate(self.law, self.values, C)
        many = allocate(self.law, {name: v[:, None] for name, v in self.samples.items()}, C) if self.samples else {}
        away = allocate(self.law, {name: v[:, None] for name, v in self.left_out.items()}, C) if self.left_out else {}
        return {name: self._limits(best[name], many.get(name), away.get(name), level) for name in best}

    def beyond(self, columns: Columns) -> list[str]:
        """Sentences about inputs that lie more than ten times outside what was fitted; empty where none does."""
        sentences = []
        for name in self.law.inputs:
            low, high = float(self.data[name].min()), float(self.data[name].max())
            value = float(np.max(columns[name]))
            if low > 0 and (value > 10 * high or value < low / 10):
                sentences.append(f"{name}={value:.3g} is far outside the data ({low:.3g} to {high:.3g}): extrapolated.")
        return sentences

    def parameter_intervals(self, level: float = 0.95) -> dict[str, Interval]:
        """Intervals of the parameters."""
        return {
            name: Interval(*map(float, self._limits(value, self.samples.get(name), self.left_out.get(name), level)))
            for name, value in self.values.items()
        }

    @staticmethod
    def _limits(estimate: Any, many: Any, left_out: Any, level: float) -> np.ndarray:
        """Values [...] with their limits, [3, ...], from those of bootstraps and of rows left out, if any."""
        estimate = np.asarray(estimate, np.float64)
        low = high = np.full(estimate.shape, np.nan)
        if many is not None:
            low, high = bootstrap.interval(many, level, estimate=estimate, jackknife=left_out)
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
            "digest": digest(self.data),
            "data": {name: column.tolist() for name, column in self.data.items()},
            "groups": None if self.groups is None else [str(group) for group in self.groups],
            "samples": {name: values.tolist() for name, values in self.samples.items()},
            "left_out": {name: values.tolist() for name, values in self.left_out.items()},
        }

    def save(self, path: str | Path) -> None:
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Fit:
        """Read a fit. Raises UserError where the file is none, or was changed by hand."""
        from pathways_lite.scaling.laws.registry import find

        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            data = {name: np.array(column, np.float64) for name, column in content["data"].items()}
            fit = cls(
                law=find(content["law"]), link=content["link"], loss=parse_loss(content["loss"]),
                values={p["name"]: p["value"] for p in content["parameters"]}, objective=content["objective"],
                starts=content["starts"], reached=content["reached"], converged=content["converged"],
                seed=content["seed"], data=data,
                groups=None if content["groups"] is None else np.array(content["groups"], dtype=object),
                samples={name: np.array(values, np.float64) for name, values in content["samples"].items()},
                left_out={name: np.array(values, np.float64) for name, values in content["left_out"].items()},
                notes=tuple(content["notes"]), origin=content["origin"],
            )  # fmt: skip
        except FileNotFoundError:
            raise UserError(f"there is no fit {path}; `pathways-lite fit LAW TABLE --out {path}` makes one") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no fit that `pathways-lite fit` wrote ({error})") from error
        if content["digest"] != digest(fit.data):
            raise UserError(f"{path}: its data are not those that it was fitted to (the digest differs)")
        return fit

    def repeat(self) -> Fit:
        """The same fit again, from its data, seed and settings alone."""
        again = fit_law(
            self.law, self.data, link=self.link, loss=self.loss, starts=self.starts, seed=self.seed,
            bootstraps=self.bootstraps, bca=bool(self.left_out), groups=self.groups, units=False,
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
    """Fit a law to a table, with bootstrap samples of rows, or of whole runs where `groups` [rows] names them.

    `bca`: intervals corrected for bias and acceleration rather than percentiles, at the price of a fit per row or run.

    Raises UserError where the table cannot carry the fit (`checks.checked`).
    """
    columns = checked(replace(law, link=link or law.link), table, units=units)
    solution = solve(law, columns, link=link, loss=loss, starts=starts, seed=seed)
    samples: dict[str, np.ndarray] = {}
    left_out: dict[str, np.ndarray] = {}
    rows = len(columns[law.target])
    if bootstraps:
        samples = resolve_weighted(solution, columns, bootstrap.resample(rows, bootstraps, seed + 1, groups))
        left_out = resolve_weighted(solution, columns, bootstrap.leave_out(rows, groups)) if bca else {}
    return Fit(
        law=law, link=solution.link, loss=solution.loss, values=solution.values, objective=solution.objective,
        starts=solution.starts, reached=solution.reached, converged=solution.converged, seed=seed, data=columns,
        groups=groups, samples=samples, left_out=left_out, notes=tuple(_notes(solution, columns)),
        origin=dict(origin or {}),
    )  # fmt: skip


def leave_largest_out(
    law: Law, table: Mapping[str, np.ndarray], *, by: str, count: int = 1, **settings: Any
) -> tuple[Fit, np.ndarray, np.ndarray]:
    """Fit without the rows of the `count` largest values of column `by`, and predict them.

    Returns the fit, and what was predicted and measured [held-out rows].
    """
    columns = checked(law, table, units=settings.pop("units", True))
    size = numeric(with_derived(table, (by,)), by)
    levels = np.unique(size)
    if len(levels) <= count:
        raise UserError(f"column {by} has {len(levels)} different values, so the {count} largest cannot be left out")
    held_out = size >= levels[-count]
    fit = fit_law(law, {name: column[~held_out] for name, column in columns.items()}, units=False, **settings)
    rest = {name: column[held_out] for name, column in columns.items()}
    return fit, predict(law, fit.values, rest), rest[law.target]


def quality(fit: Fit) -> dict[str, float]:
    """R² of the target, its root mean squared error, and its mean and largest relative error."""
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
    """The objective on this data of every set of values that the literature gives for the law."""
    law = fit.law
    sets = [(name, dict(zip(law.names, values, strict=True))) for name, values in law.published]
    return [(name, objective_of(law, v, fit.data, link=fit.link, loss=fit.loss)) for name, v in sets]


def _notes(solution: Solution, columns: Table) -> list[str]:
    """What a reader of the fit should know before believing it."""
    law, notes = solution.law, []
    if not solution.converged:
        notes.append("The best start ran out of evaluations; the objective may still fall. Give more starts.")
    if solution.starts > 1 and solution.reached < max(2, 0.1 * solution.starts):
        notes.append(
            f"Only {solution.reached} of {solution.starts} starts reached the best objective; give more starts."
        )
    rows = len(columns[law.target])
    if rows < 2 * len(law.parameters):
        notes.append(f"{rows} rows for {len(law.parameters)} parameters: residuals say little about errors elsewhere.")
    for parameter in law.parameters:
        if parameter.name in law.falling and solution.values[parameter.name] <= 0:
            notes.append(f"{parameter.name} is not positive: on these data the loss does not fall with that input.")
        elif parameter.of_target and parameter.kind == "positive":
            typical = float(np.median(np.abs(columns[law.target])))
            if solution.values[parameter.name] < 1e-4 * typical:
                notes.append(f"{parameter.name} went to zero: the data show no floor, so extrapolation has none.")
    if "N" in columns and "D" in columns and np.median(columns["D"] / columns["N"]) < 1:
        notes.append("Most runs have fewer tokens than parameters. If they have not, N and D are exchanged.")
    logs = [np.log(columns[name]) for name in law.inputs if np.all(columns[name] > 0) and np.ptp(columns[name]) > 0]
    if len(logs) > 1:
        correlations = np.abs(np.corrcoef(logs))[np.triu_indices(len(logs), 1)]
        if correlations.max() > 0.995:
            notes.append("Two inputs move together in these data; their effects cannot be told apart.")
    return notes


def _shown(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in values.items())
