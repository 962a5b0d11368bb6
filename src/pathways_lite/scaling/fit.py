"""A fit of a law to a table: its values, its intervals, and the data and settings needed to repeat it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.intervals import LEVEL, Interval
from pathways_lite.json_values import restore_floats
from pathways_lite.run_directory import write_json
from pathways_lite.scaling import bootstrap, uncertainty
from pathways_lite.scaling.checks import validate_columns
from pathways_lite.scaling.law import Columns, Law
from pathways_lite.scaling.losses import Link, Loss, parse_loss
from pathways_lite.scaling.meaning import meaning_notes
from pathways_lite.scaling.notes import fit_notes
from pathways_lite.scaling.rehearsal import Rehearsal, rehearse
from pathways_lite.scaling.solver import Progress, no_progress, optimal_allocation, predict, refit_weighted, solve
from pathways_lite.scaling.table import Table, derive_columns, numeric_column, row_names, table_digest
from pathways_lite.scaling.uncertainty import Kind, Method, choose_method
from pathways_lite.version import __version__

FORMAT = 1
EXTRAPOLATION_FACTOR = 1.1  # an input further outside the data than this is said to be extrapolated


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    `samples` [bootstraps] by parameter name are the values fitted to bootstrap resamples. `jackknife` [rows, or groups]
    by parameter name are the values fitted without each row, which BCa intervals need; if it is empty, intervals are
    percentiles. `method` is how intervals are found; None: there are none. `rehearsal` has what forecasts of its own
    largest rows missed. `row_names` [rows] name the rows, if the table does.
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
    method: Method | None = None
    rehearsal: Rehearsal | None = None
    row_names: tuple[str, ...] | None = None

    @property
    def rows(self) -> int:
        return len(self.data[self.law.target])

    @property
    def bootstraps(self) -> int:
        return len(next(iter(self.samples.values()), ()))

    def predicted(self) -> np.ndarray:
        """Predict the target of the fit's own rows, [rows]."""
        return predict(self.law, self.values, self.data)

    def predict(self, columns: Columns, level: float = LEVEL, kind: Kind = "law") -> list[Interval]:
        """Predict the target at new inputs, with the interval of the law, of a run, or of a forecast.

        `uncertainty.py` says what they are. Limits are NaN for a kind that this fit does not have. Raises UserError if
        an input is missing.
        """
        missing = [name for name in self.law.inputs if name not in columns]
        if missing:
            raise UserError(f"{self.law.name} needs {', '.join(f'{name}=…' for name in missing)} as well")
        inputs = {name: np.atleast_1d(np.asarray(columns[name], np.float64)) for name in self.law.inputs}
        low, high = uncertainty.prediction_limits(self, inputs, level, kind)
        return [
            Interval(*map(float, row)) for row in zip(predict(self.law, self.values, inputs), low, high, strict=True)
        ]

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
        samples, left_out = (
            optimal_allocation(self.law, {name: v[:, None] for name, v in fits.items()}, C) if fits else {}
            for fits in (self.samples, self.jackknife)
        )
        return {
            name: np.stack(
                [
                    value,
                    *uncertainty.allocation_limits(self, name, value, samples.get(name), left_out.get(name), C, level),
                ]
            )
            for name, value in best.items()
        }

    def extrapolation_warnings(self, columns: Columns) -> list[str]:
        """Return a sentence, with the factor, for every input outside the range of the fitted data.

        `columns` may have C, the compute of an optimum, which is compared with that of the data.
        """
        known = {name: self.data[name] for name in self.law.inputs}
        names = [name for name in ("C", *self.law.inputs) if name in columns]
        fitted = derive_columns(known, tuple(names))
        sentences = []
        for name in names:
            if name not in fitted or name in self.law.any_sign or np.min(columns[name]) <= 0:
                continue
            low, high = float(fitted[name].min()), float(fitted[name].max())
            largest, smallest = float(np.max(columns[name])), float(np.min(columns[name]))
            for value, limit, factor, where in (
                (largest, high, largest / high, "above the largest"),
                (smallest, low, low / smallest, "below the smallest"),
            ):
                if factor > EXTRAPOLATION_FACTOR:
                    sentences.append(
                        f"{name}={value:.3g} is a factor of {factor:.3g} {where} {name} of the data ({limit:.3g}): "
                        "extrapolated."
                    )
        return sentences

    def parameter_intervals(self, level: float = LEVEL) -> dict[str, Interval]:
        """Return the intervals of the parameters."""
        low, high = uncertainty.parameter_limits(self, level)
        return {
            name: Interval(self.values[name], float(low[i]), float(high[i])) for i, name in enumerate(self.law.names)
        }

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
            "version": __version__,
            "digest": table_digest(self.data),
            "data": {name: column.tolist() for name, column in self.data.items()},
            "groups": None if self.groups is None else [str(group) for group in self.groups],
            "samples": {name: values.tolist() for name, values in self.samples.items()},
            "left_out": {name: values.tolist() for name, values in self.jackknife.items()},
            "intervals": self.method,
            "rehearsal": None if self.rehearsal is None else self.rehearsal.to_json(),
            "row_names": None if self.row_names is None else list(self.row_names),
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
                # Fits of earlier versions have no key of these.
                method=content.get("intervals", "bootstrap" if content["samples"] else None),
                rehearsal=None if content.get("rehearsal") is None else Rehearsal.from_json(content["rehearsal"]),
                row_names=None if content.get("row_names") is None else tuple(content["row_names"]),
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
            bootstraps=self.bootstraps, bca=bool(self.jackknife), groups=self.groups, units=False, method=self.method,
        )  # fmt: skip
        return replace(again, notes=self.notes, origin=self.origin, row_names=self.row_names)


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
    method: Method | None = None,
    progress: Progress = no_progress,
) -> Fit:
    """Fit a law to a table, with intervals.

    `method`: how intervals are found. None chooses one (`uncertainty.choose_method`) if `bootstraps` is positive, and
    gives none otherwise. A bootstrap draws `bootstraps` resamples of the rows, or of whole runs if `groups` [rows]
    names them. `bca`: correct a bootstrap for bias and acceleration, at the price of one more fit per row or run.
    `progress` shows the parts of the work (`cli.common.count_progress`).

    Raises UserError if the table cannot carry the fit (`checks.validate_columns`).
    """
    columns = validate_columns(replace(law, link=link or law.link), table, units=units)
    rows = len(columns[law.target])
    names = row_names(table, rows)
    solution = solve(law, columns, link=link, loss=loss, starts=starts, seed=seed, progress=progress)
    if method is None and bootstraps:
        method = "bootstrap" if bca else choose_method(law, rows, solution.loss, grouped=groups is not None)
    samples: dict[str, np.ndarray] = {}
    jackknife: dict[str, np.ndarray] = {}
    if method == "bootstrap":
        resamples = bootstrap.Resamples(rows, bootstraps, seed + 1, groups)
        samples = refit_weighted(solution, columns, resamples, progress=progress)
        left_out = bootstrap.jackknife_weights(rows, groups) if bca else None
        jackknife = {} if left_out is None else refit_weighted(solution, columns, left_out, progress=progress)
    fit = Fit(
        law=law, link=solution.link, loss=solution.loss, values=solution.values, objective=solution.objective,
        starts=solution.starts, reached=solution.reached, converged=solution.converged, seed=seed, data=columns,
        groups=groups, samples=samples, jackknife=jackknife, origin=dict(origin or {}), method=method,
        notes=tuple(fit_notes(
            solution, columns, groups=groups, has_intervals=method is not None or not bootstraps, names=names,
            measured_here="lineage" in table,
        )),
        rehearsal=None if method is None or law.averaged else rehearse(solution, columns, progress),
        row_names=names,
    )  # fmt: skip
    return replace(fit, notes=(*fit.notes, *meaning_notes(fit, table)))


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


def _format_values(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in values.items())
