"""Check that a table is sufficient for a fit before anything is computed; refuse it with one sentence otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from pathways_lite.errors import UserError, counted
from pathways_lite.intervals import plain
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.table import COLUMNS, Table, derive_columns, is_own_table, numeric_column
from pathways_lite.scaling.units import check_units

_ROUNDING = 1e-12  # what shares that are equal may differ by


def validate_columns(
    law: Law, table: Mapping[str, np.ndarray], *, units: bool = True, alternatives: Mapping[str, Law] | None = None
) -> Table:
    """Return the law's inputs and target as float64, derived from other columns if necessary.

    Raises UserError for missing columns, text, NaN and infinities, values that are not positive where a logarithm is
    taken, fewer rows than parameters, inputs or a target with a single value, and (with `units`) medians that no run
    has, such as parameters in millions or tokens in billions. Tables of this program's own runs have known units,
    however small the runs are. `alternatives`: laws that may be fitted instead, by what to write for them; None: all,
    by their names.
    """
    names = (*law.inputs, law.target)
    full = derive_columns(table, names)
    columns = {name: numeric_column(full, name) for name in names}
    if not len(columns[law.target]):
        raise UserError(f"the table is empty; {law.name} needs at least {len(law.parameters)} rows")
    for name, values in columns.items():
        _check_numbers(law, name, values)
    if problem := _identifiability_problem(law, columns):
        raise UserError(f"{problem}{_smaller_laws(law, table, alternatives)}{_checkpoints_as_rows(table)}")
    if units and not is_own_table(table):
        check_units(columns, derive_columns(full, ("N", "D", "C")))
    return columns


def _check_numbers(law: Law, name: str, values: np.ndarray) -> None:
    bad_rows = np.flatnonzero(~np.isfinite(values))
    if len(bad_rows):
        more = f" and {len(bad_rows) - 1} more rows are not finite either" if len(bad_rows) > 1 else ""
        raise UserError(
            f"column {name} has {values[bad_rows[0]]} in row {bad_rows[0] + 1}{more}; leave such rows "
            "out (--drop-missing) or fill them in"
        )
    if name in law.any_sign or (name == law.target and law.link == "raw"):
        return
    bad_rows = np.flatnonzero(values <= 0)
    if len(bad_rows):
        raise UserError(
            f"column {name} has {values[bad_rows[0]]:g} in row {bad_rows[0] + 1}, but {law.name} takes its logarithm: "
            "all its values must be positive"
        )


def _identifiability_problem(law: Law, columns: Table) -> str:
    """Say what the rows lack to determine the law's parameters, and what to add; "" where they lack nothing."""
    rows, parameters = len(columns[law.target]), len(law.parameters)
    inputs = [name for name in law.inputs if columns[name].ndim == 1]
    if rows < parameters:
        counts = {name: len(np.unique(columns[name])) for name in inputs}
        single = [name for name, count in counts.items() if count == 1]
        there = ", ".join(f"{count} of {name}" for name, count in counts.items())
        few = f"{counted(rows, 'row')} {'is' if rows == 1 else 'are'} too few"
        return (
            f"{few} for the {parameters} parameters of {law.name}; add at least {parameters - rows}, "
            f"with other values of {' and '.join(single or inputs)} (different ones so far: {there})"
        )
    target = columns[law.target]
    if _is_constant(target) or (law.link == "raw" and np.ptp(target) <= _ROUNDING):
        value = plain(float(np.median(target)), "g")
        return (
            f"column {law.target} is {value} in all {rows} rows, so the data do not show "
            f"how it depends on {' and '.join(inputs)}; add rows with another {law.target}"
        )
    for name in law.inputs if law.must_vary is None else law.must_vary:
        values = columns[name]
        if _is_constant(values):
            meaning = f" ({COLUMNS[name].meaning})" if name in COLUMNS else ""
            return (
                f"column {name}{meaning} has the single value {values[0]:g}, so the data do not show how "
                f"{law.target} depends on it; add runs with another {name}"
            )
    distinct = len(np.unique(np.stack([columns[name] for name in inputs], axis=1), axis=0))
    if distinct < law.min_distinct:
        return (
            f"the {rows} rows have only {distinct} different inputs ({', '.join(law.inputs)}), too few for "
            f"the {parameters} parameters of {law.name}; give at least {law.min_distinct}"
        )
    return ""


def _is_constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def _checkpoints_as_rows(table: Mapping[str, np.ndarray]) -> str:
    """Say how one run of ours has more rows; "" for more runs, and for other tables."""
    if not is_own_table(table) or len(runs := set(table["run"].tolist())) > 1:
        return ""
    run = runs.pop()
    return (
        f"; checkpoints are rows too: `pathways-lite evaluate {run} --along` measures those of a run, for laws of "
        f"tokens or compute, as in `pathways-lite fit tokens {run}/along.csv`"
    )


def _smaller_laws(law: Law, table: Mapping[str, np.ndarray], alternatives: Mapping[str, Law] | None) -> str:
    """Name the laws of the same target with fewer parameters that these rows determine; "" if there is none."""
    from pathways_lite.scaling.laws.registry import LAWS  # which imports all of them

    smaller = [
        written
        for written, other in (LAWS if alternatives is None else alternatives).items()
        if other.target == law.target and len(other.parameters) < len(law.parameters) and _is_determined(other, table)
    ]
    if not smaller:
        return ""
    return f"; or fit a law with fewer parameters, which these rows determine: {', '.join(smaller)}"


def _is_determined(law: Law, table: Mapping[str, np.ndarray]) -> bool:
    """Return whether a table has all that the law needs."""
    with suppress(UserError):
        full = derive_columns(table, (*law.inputs, law.target))
        columns = {name: numeric_column(full, name) for name in (*law.inputs, law.target)}
        for name, values in columns.items():
            _check_numbers(law, name, values)
        return not _identifiability_problem(law, columns)
    return False
