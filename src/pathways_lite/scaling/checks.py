"""Whether a table can carry a fit: one sentence where it cannot, before any number is computed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.table import COLUMNS, Table, numeric, with_derived


def validate_columns(law: Law, table: Mapping[str, np.ndarray], *, units: bool = True) -> Table:
    """The law's inputs and target as float64, derived where need be. Raises UserError where they cannot carry it.

    Refused are missing columns, text, NaN and infinities, values that a logarithm would be taken of and that are
    not positive, fewer rows than parameters, columns of a single value, and (with `units`) medians that
    no run has: parameters in millions, tokens in billions.
    """
    needed = (*law.inputs, law.target)
    full = with_derived(table, needed)
    columns = {name: numeric(full, name) for name in needed}
    if not len(columns[law.target]):
        raise UserError(f"the table is empty; {law.name} needs at least {len(law.parameters)} rows")
    for name, values in columns.items():
        _check_numbers(law, name, values)
    _check_identifiability(law, columns)
    if units:
        for name, values in columns.items():
            _check_unit(name, float(np.median(values)))
        _check_consistency(with_derived(full, ("N", "D", "C")))
    return columns


def _check_numbers(law: Law, name: str, values: np.ndarray) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        others = f" and nothing better in {len(wrong) - 1} others" if len(wrong) > 1 else ""
        raise UserError(
            f"column {name} has {values[wrong[0]]} in row {wrong[0] + 1}{others}; drop such rows or fill them in"
        )
    if name in law.any_sign or (name == law.target and law.link == "raw"):
        return
    wrong = np.flatnonzero(values <= 0)
    if len(wrong):
        raise UserError(
            f"column {name} has {values[wrong[0]]:g} in row {wrong[0] + 1}, where {law.name} takes logarithms: "
            f"all its values must be positive"
        )


def _check_identifiability(law: Law, columns: Table) -> None:
    rows, parameters = len(columns[law.target]), len(law.parameters)
    if rows < parameters:
        raise UserError(
            f"{rows} rows cannot carry the {parameters} parameters of {law.name}; give at least {parameters}"
        )
    for name in law.inputs if law.must_vary is None else law.must_vary:
        values = columns[name]
        if np.ptp(values) <= 1e-9 * np.abs(values).max():
            meaning = f" ({COLUMNS[name].meaning})" if name in COLUMNS else ""
            raise UserError(
                f"column {name}{meaning} has the single value {values[0]:g}, so nothing can be said of how "
                f"{law.target} depends on it; add runs with another {name}"
            )
    inputs = np.stack([columns[name] for name in law.inputs], axis=1)
    distinct = len(np.unique(inputs, axis=0))
    if distinct < law.min_distinct:
        raise UserError(
            f"the {rows} rows have only {distinct} different inputs ({', '.join(law.inputs)}), which cannot carry "
            f"the {parameters} parameters of {law.name}; give at least {law.min_distinct}"
        )


def _check_unit(name: str, median: float) -> None:
    known = COLUMNS.get(name)
    if known is None or known.low <= median <= known.high:
        return
    unit = f" in {known.unit}" if known.unit not in ("", known.meaning) else ""
    advice = known.mistake or f"give a factor, as in {name}='{name}*{'1e6' if median < known.low else '1e-6'}'"
    raise UserError(
        f"column {name} has a median of {median:.3g}, not believable for {known.meaning}{unit}: it looks like other "
        f"units; {advice}"
    )


def _check_consistency(full: Mapping[str, np.ndarray]) -> None:
    """Whether N, D, C and M, as far as they are there, say the same of the same runs."""
    try:
        N, D, C, M = (numeric(full, name) if name in full else None for name in ("N", "D", "C", "M"))
    except UserError:
        return  # a column of that name that the law does not ask for may hold anything
    if N is None or D is None:
        return
    ratio = float(np.nanmedian(D / N))
    if not COLUMNS["M"].low <= ratio <= COLUMNS["M"].high:
        raise UserError(
            f"D/N has a median of {ratio:.3g} tokens per parameter, which no run has: N or D is in other units; give "
            f"a factor, as in N='N*1e6'"
        )
    for name, column, expected, formula in (("C", C, 6 * N * D, "6ND"), ("M", M, D / N, "D/N")):
        factor = 1.0 if column is None else float(np.nanmedian(column / expected))
        if np.isfinite(factor) and not 0.02 < factor < 50:
            raise UserError(
                f"column {name} is {factor:.3g} times {formula} in the median: {name}, N or D is in other units; give "
                f"a factor, as in {name}='{name}*{1 / factor:.0e}'"
            )
