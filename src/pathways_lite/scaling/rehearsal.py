"""Rehearsals of a forecast: fit without the largest rows, predict them, and see how wide the interval had to be.

No law is exact, so its errors grow beyond its data, by an amount that residuals inside the data do not show. A forecast
takes it from rehearsals: the same law is fitted without the largest values of an input, and its misses are measured in
half-widths of the interval of a run. The interval of a forecast is that of a run, multiplied by their quantile (split
conformal prediction: Lei et al. 2018, arXiv 1604.04173, on blocks that are ordered by size).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pathways_lite.scaling.delta import linearize
from pathways_lite.scaling.law import Law, double_precision
from pathways_lite.scaling.losses import LINKS
from pathways_lite.scaling.quantities import Prediction
from pathways_lite.scaling.solver import Progress, Solution, no_progress, predict, refit_weighted
from pathways_lite.scaling.table import Table, derive_columns

LEFT_OUT = (0.0, 0.1, 0.2, 0.3, 0.4)  # shares of the rows that a rehearsal leaves out; 0: one value alone
FOLDS = 5  # of rehearsals where no input orders the rows by size
MIN_TASKS = 9
ROUNDING = 1e-8  # relative errors of predictions below this are those of the arithmetic


@dataclass(frozen=True)
class Rehearsal:
    """What forecasts of the fit's own largest rows missed.

    `misses`: for every rehearsal, the errors of its rows on the scale of the link over the standard error of a run
    times Student's quantile at 95 %: above 1 is outside the interval of a run.
    """

    by: str  # the column whose largest values were left out; "" if rows were left out in turns
    furthest: float  # the largest ratio of a value left out to the largest one kept
    misses: tuple[tuple[float, ...], ...]

    @property
    def factor(self) -> float:
        """Return how many times as wide as a run's the interval had to be in the worst rehearsal; at least 1.

        NaN without a rehearsal.
        """
        widths = [_conformal_quantile(np.array(misses)) for misses in self.misses]
        return max(1.0, *widths) if widths else math.nan

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Rehearsal:
        return cls(content["by"], content["furthest"], tuple(tuple(misses) for misses in content["misses"]))


def _conformal_quantile(misses: np.ndarray, level: float = 0.95) -> float:
    """Return the ceil((n + 1) level)-th smallest of n misses; the largest where n is too small for that rank."""
    rank = min(len(misses), math.ceil((len(misses) + 1) * level))
    return float(np.sort(misses)[rank - 1])


def order_of_size(law: Law, columns: Mapping[str, np.ndarray]) -> tuple[str, np.ndarray] | None:
    """Return the column that orders rows by size, with its values: C if there is one, else the law's first input.

    A loss as an input orders rows by its inverse. None where no input grows with the size of a run (shares).
    """
    full = derive_columns({name: columns[name] for name in law.inputs}, ("C",))
    for name in ("C", *law.inputs):
        values = full.get(name)
        if values is None or name in law.any_sign or values.ndim != 1:
            continue
        if np.all(values > 0) and np.ptp(values) > 0:
            return name, 1 / values if name == "L" else values
    return None


def extrapolation(law: Law, fitted: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray], by: str) -> np.ndarray:
    """Return how many times [rows] the size of new inputs is that of the largest fitted row, by the column `by`."""
    sizes = [derive_columns({name: table[name] for name in law.inputs}, (by,))[by] for table in (fitted, inputs)]
    old, new = (1 / values if by == "L" else np.asarray(values, np.float64) for values in sizes)
    return np.atleast_1d(new / old.max())


def rehearse(solution: Solution, columns: Table, progress: Progress = no_progress) -> Rehearsal:
    """Rehearse forecasts of the largest rows of `columns` with the law of `solution`.

    A rehearsal keeps at least half of the rows, and two more than there are parameters; there may be none.
    """
    law, rows = solution.law, len(columns[solution.law.target])
    order = order_of_size(law, columns)
    if order is None:
        fold = np.random.default_rng(0).permutation(rows) % FOLDS
        by, furthest = "", 1.0
        masks = _determined(law, columns, [fold != i for i in range(FOLDS)])
    else:
        by, sizes = order
        distinct = np.unique(sizes)
        at_shares = np.searchsorted(distinct, [np.quantile(sizes, 1 - share) for share in LEFT_OUT])
        limits = sorted({float(distinct[min(max(1, i), len(distinct) - 1)]) for i in at_shares})
        masks = _determined(law, columns, [sizes < limit for limit in limits])
        furthest = max((float(sizes.max() / sizes[mask].max()) for mask in masks), default=1.0)
    if not masks:
        return Rehearsal(by, furthest, ())
    # As many lanes as the fit's own starts need, so that nothing new is compiled.
    weights = np.resize(np.array(masks, np.float64), (max(len(masks), MIN_TASKS), rows))
    misses = []
    with progress("rehearsing", len(masks), "forecasts") as advance:
        refits = refit_weighted(solution, columns, weights)
        for i, mask in enumerate(masks):
            values = {name: float(fits[i]) for name, fits in refits.items()}
            misses.append(tuple(float(miss) for miss in _misses(solution, columns, mask, values)))
            advance(1)
    return Rehearsal(by, furthest, tuple(misses))


def _determined(law: Law, columns: Table, masks: list[np.ndarray]) -> list[np.ndarray]:
    """Return the masks that keep enough rows, and enough different ones, to determine the law."""
    inputs = np.stack([columns[name].reshape(len(columns[name]), -1)[:, 0] for name in law.inputs], axis=1)

    def determines(mask: np.ndarray) -> bool:
        return bool(
            mask.sum() >= max(len(law.parameters) + 2, len(mask) / 2)
            and not mask.all()
            and len(np.unique(inputs[mask], axis=0)) >= law.min_distinct
            and np.all(np.ptp(inputs[mask], axis=0)[np.ptp(inputs, axis=0) > 0] > 0)
        )

    return [mask for mask in masks if determines(mask)]


def _misses(solution: Solution, columns: Table, kept: np.ndarray, values: Mapping[str, float]) -> np.ndarray:
    """Return the misses of a fit to the `kept` rows on the others, in half-widths of the interval of a run."""
    law, link = solution.law, LINKS[solution.link]
    left_out = {name: column[~kept] for name, column in columns.items()}
    linear = linearize(law, values, columns, solution.link, solution.loss, rows=kept)
    with double_precision():
        errors = np.asarray(link(left_out[law.target])) - np.asarray(link(predict(law, values, left_out)))
        scale = np.maximum(np.abs(np.asarray(link(left_out[law.target]))), 1)
    law_error = linear.standard_error(Prediction(law, solution.link), {name: left_out[name] for name in law.inputs})
    half_widths = linear.quantile(0.95) * np.hypot(law_error, linear.noise)
    # Of exact data, errors and half-widths are what rounding leaves of zero.
    return np.abs(errors) / np.maximum(half_widths, ROUNDING * scale)
