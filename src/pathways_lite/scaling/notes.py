"""What a reader should know before trusting a fit: of its optimum, of its parameters, and of its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pathways_lite.scaling.law import double_precision
from pathways_lite.scaling.losses import LINKS
from pathways_lite.scaling.solver import Solution
from pathways_lite.scaling.table import COLUMNS, Table

SHOWN_ROWS = 3
OUTLIER = 8.0  # in robust standard deviations of the residuals
OUTLIER_ERROR = 0.01  # and at least this share of the target
FEW_GROUPS = 10
# Above these, a loss is no loss of a trained language model: ln 400 000 = 12.9 is a uniform guess over its vocabulary.
UNIFORM_GUESS, TRAINED_LOSS = 13.0, 4.5
UNIT_GAP = 2.5  # powers of ten without a value between two groups of values


def fit_notes(
    solution: Solution,
    columns: Table,
    *,
    groups: np.ndarray | None = None,
    has_intervals: bool = True,
    names: Sequence[str] | None = None,
    measured_here: bool = False,
) -> list[str]:
    """Return the notes on a fit, a sentence or two each.

    `has_intervals`: they were not asked for and refused. `names`: of the rows. `measured_here`: they are
    runs of this library, whose columns need no doubt.
    """
    return [
        *_of_the_optimum(solution),
        *_of_intervals(solution, columns, groups, has_intervals),
        *_of_parameters(solution, columns),
        *_of_the_data(solution, columns, measured_here),
        *_of_residuals(solution, columns, names),
    ]


def _of_the_optimum(solution: Solution) -> Iterator[str]:
    if not solution.converged:
        yield "The best start ran out of evaluations, so the objective may still fall; use more starts."
    if solution.starts > 1 and solution.reached < max(2, 0.1 * solution.starts):
        yield f"Only {solution.reached} of {solution.starts} starts reached the best objective; use more starts."


def _of_intervals(solution: Solution, columns: Table, groups: np.ndarray | None, has_intervals: bool) -> Iterator[str]:
    law, rows = solution.law, len(columns[solution.law.target])
    if rows < 2 * len(law.parameters):
        yield f"{rows} rows for {len(law.parameters)} parameters: residuals say little about errors on other data."
    if not has_intervals and law.averaged:
        yield (
            f"There are no intervals: every {law.target} is an average over the same problems, so rows are not "
            f"independent. Give a row per problem and {law.inputs[0]}, and --by the column that names the problem."
        )
    elif not has_intervals:
        yield f"There are no intervals: {rows} rows leave nothing to estimate the noise from; add runs."
    if groups is not None and (number := len(np.unique(np.asarray(groups).astype(str)))) < FEW_GROUPS:
        yield (
            f"Only {number} groups are resampled; their intervals are widened by Student's t, but that many say "
            "little about how much they differ."
        )


def _of_parameters(solution: Solution, columns: Table) -> Iterator[str]:
    law, target = solution.law, columns[solution.law.target]
    for parameter in law.parameters:
        if parameter.name in law.decay_exponents and solution.values[parameter.name] <= 0:
            yield f"{parameter.name} is not positive: in these data the loss does not fall as that input grows."
        elif parameter.in_target_units and parameter.kind == "positive":
            typical = float(np.median(np.abs(target)))
            if solution.values[parameter.name] < 1e-4 * typical:
                yield f"{parameter.name} went to zero: the data show no floor, so the extrapolation has none either."
    if law.remarks is not None:
        yield from law.remarks(solution.values)


def _of_the_data(solution: Solution, columns: Table, measured_here: bool) -> Iterator[str]:
    law = solution.law
    scalars = {name: columns[name] for name in law.inputs if columns[name].ndim == 1}
    if "N" in columns and "D" in columns and np.median(columns["D"] / columns["N"]) < 1:
        doubt = "" if measured_here else " If that is wrong, N and D are swapped."
        yield f"Most runs have fewer tokens than parameters.{doubt}"
    logs = [np.log(values) for values in scalars.values() if np.all(values > 0) and np.ptp(values) > 0]
    if len(logs) > 1:
        correlations = np.abs(np.corrcoef(logs))[np.triu_indices(len(logs), 1)]
        if correlations.max() > 0.995:
            yield "Two inputs vary together in these data, so their effects cannot be separated."
    for name, values in scalars.items():
        if np.ptp(values) == 0:
            yield f"{name} is {values[0]:g} in every row: the fit holds for that {name} only."
        yield from _of_a_gap(name, values)
    if law.target == "L":
        yield from _of_perplexities(columns)
    if not law.averaged and len(scalars) == len(law.inputs):
        rows = np.stack([*scalars.values(), columns[law.target]], axis=1)
        copies = len(rows) - len(np.unique(rows, axis=0))
        if copies:
            yield (
                f"{copies} rows repeat another row exactly, {law.target} included. If they are copies, drop them: they "
                "count twice and make intervals too short."
            )


def _of_a_gap(name: str, values: np.ndarray) -> Iterator[str]:
    """Note two groups of values that are a change of units apart, with nothing between them."""
    if name not in COLUMNS or COLUMNS[name].unit == "" or not np.all(values > 0):
        return
    ordered = np.sort(np.log10(values))
    gaps = np.diff(ordered)
    if len(gaps) and gaps.max() >= UNIT_GAP:
        i = int(gaps.argmax())
        yield (
            f"{name} has {i + 1} rows up to {10 ** ordered[i]:.3g} and {len(values) - i - 1} from "
            f"{10 ** ordered[i + 1]:.3g}, and none between: are some of them in other units?"
        )


def _of_perplexities(columns: Table) -> Iterator[str]:
    L, N, D = columns["L"], columns.get("N"), columns.get("D")
    is_large = N is not None and D is not None and np.median(N) >= 1e7 and np.median(D) >= 1e9
    if L.max() > UNIFORM_GUESS or (is_large and np.median(L) > TRAINED_LOSS):
        yield (
            f"L has a median of {np.median(L):.3g} and a maximum of {L.max():.3g}, high for a loss in nats per token. "
            "If these are perplexities, fit their logarithms; if they are bits, multiply by 0.6931."
        )


def _of_residuals(solution: Solution, columns: Table, names: Sequence[str] | None) -> Iterator[str]:
    law, target = solution.law, columns[solution.law.target]
    if len(target) < len(law.parameters) + 3 or law.averaged:
        return
    with double_precision():
        link = LINKS[solution.link]
        predicted = solution.predict(columns)
        residuals = np.asarray(link(target)) - np.asarray(link(predicted))
    spread = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))
    far = (np.abs(residuals) > OUTLIER * spread) & (np.abs(target - predicted) > OUTLIER_ERROR * np.abs(predicted))
    if not 0 < far.sum() <= 0.1 * len(target):
        return
    rows = np.flatnonzero(far)[np.argsort(-np.abs(residuals[far]), kind="stable")]
    shown = ", ".join(
        f"{f'row {i + 1}' if names is None else names[i]} ({target[i]:.4g}, the law says {predicted[i]:.4g})"
        for i in rows[:SHOWN_ROWS]
    )
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    yield f"Outliers, over {OUTLIER:g} times the usual residual: {shown}{more}; look at them before trusting the fit."
