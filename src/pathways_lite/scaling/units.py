"""Units of other people's tables: columns in thousands, millions or billions, rows in different units, N·D·6 ≠ C."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.table import COLUMNS, numeric_column

UNITS = (1e3, 1e6, 1e9)  # that sizes, tokens and FLOPs are given in
USUAL_N, USUAL_M = 1e9, 20.0  # parameters, and tokens per parameter, of runs that are published
INCONSISTENT = 50.0  # C over 6ND, or M over D/N, in the median
MIXED = 30.0  # the same in a row, over the median


def check_units(columns: Mapping[str, np.ndarray], full: Mapping[str, np.ndarray]) -> None:
    """Raise UserError if medians or single rows are in other units.

    `columns`: those of the law; `full`: with N, D, C and M of the same table, as far as they exist.
    """
    for name, values in columns.items():
        _check_unit(name, values, full)
    for name, values in columns.items():
        _check_rows_of_a_column(name, values)
    _check_consistency(full)


def _check_unit(name: str, values: np.ndarray, full: Mapping[str, np.ndarray]) -> None:
    column, median = COLUMNS.get(name), float(np.median(values))
    if column is None or column.low <= median <= column.high:
        return
    unit = f" in {column.unit}" if column.unit not in ("", column.meaning) else ""
    advice = column.mistake
    if not advice:
        factors = _likely_factors({name: median} | _medians(full))
        factors.setdefault(name, _nearest_factor(median, column.low, column.high))
        terms = " ".join(f"{n}='{n}*{_format_factor(f)}'" for n, f in factors.items() if f != 1)
        advice = f"give a factor, as in {terms}"
    raise UserError(
        f"column {name} has a median of {median:.3g}, not plausible for {column.meaning}{unit}: it seems to be in "
        f"other units; {advice}"
    )


def _medians(full: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the medians of N, D and C, as far as these are columns of numbers and are not all derived from others."""
    medians = {}
    for name in ("N", "D", "C"):
        try:
            value = float(np.nanmedian(numeric_column(full, name)))
        except UserError:
            continue
        if np.isfinite(value) and value > 0:
            medians[name] = value
    return medians


def _likely_factors(medians: Mapping[str, float]) -> dict[str, float]:
    """Return by column the factor that makes it plausible; of several, the one with C = 6ND, then usual sizes."""
    known = {name: value for name, value in medians.items() if name in ("N", "D", "C")}
    if len(known) == 3 and math.isclose(known["C"], 6 * known["N"] * known["D"], rel_tol=1e-2):
        known.pop("C")  # derived from the others in their units
    wrong = [name for name, value in known.items() if not COLUMNS[name].low <= value <= COLUMNS[name].high]

    def misfit(factors: Iterable[float]) -> float:
        scaled = known | {name: known[name] * f for name, f in zip(wrong, factors, strict=True)}
        N, D, C = (scaled.get(name) for name in ("N", "D", "C"))
        loss = 0.0
        if N and D and C:
            loss += 10 * abs(math.log(C / (6 * N * D)))
        if N and D:
            loss += abs(math.log(D / N / USUAL_M))
        size = N or (D / USUAL_M if D else math.sqrt(C / (6 * USUAL_M)) if C else USUAL_N)
        return loss + abs(math.log(size / USUAL_N))

    choices = itertools.product((*UNITS, *(1 / unit for unit in UNITS)), repeat=len(wrong))
    return dict(zip(wrong, min(choices, key=misfit), strict=True))


def _nearest_factor(median: float, low: float, high: float) -> float:
    """Return the unit that brings a median into its plausible range, or nearest to it."""
    factors = (*UNITS, *(1 / unit for unit in UNITS))
    return min(factors, key=lambda f: max(math.log(low / (median * f)), math.log(median * f / high), 0.0))


def _format_factor(factor: float) -> str:
    return f"{factor:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def _check_rows_of_a_column(name: str, values: np.ndarray) -> None:
    """Refuse a column with values that no run has, far below the others."""
    column = COLUMNS.get(name)
    if column is None or not column.unit or values.ndim != 1 or name in ("L", "lr"):
        return
    small = np.flatnonzero(values < min(column.low, float(np.median(values)) / 300))
    if len(small):
        raise UserError(
            f"column {name} has {values[small[0]]:.3g} in row {small[0] + 1}{_and_more(small)}, and a median of "
            f"{np.median(values):.3g}: rows are in different units; give all of them in {column.unit}"
        )


def _and_more(rows: np.ndarray) -> str:
    return f" and the like in {len(rows) - 1} more rows" if len(rows) > 1 else ""


def _check_consistency(full: Mapping[str, np.ndarray]) -> None:
    """Refuse columns N, D, C and M that contradict each other, as far as they exist."""
    try:
        N, D, C, M = (numeric_column(full, name) if name in full else None for name in ("N", "D", "C", "M"))
    except UserError:
        return  # a column of that name that the law does not use may hold anything
    if N is None or D is None:
        return
    ratio = float(np.nanmedian(D / N))
    if not COLUMNS["M"].low <= ratio <= COLUMNS["M"].high:
        factor = min((*UNITS, *(1 / unit for unit in UNITS)), key=lambda f: abs(math.log(ratio / f / USUAL_M)))
        raise UserError(
            f"D/N has a median of {ratio:.3g} tokens per parameter, which no run has: N or D is in other units; give "
            f"a factor, as in N='N*{_format_factor(factor)}' or D='D*{_format_factor(1 / factor)}'"
        )
    for name, column, expected, formula in (("C", C, 6 * N * D, "6ND"), ("M", M, D / N, "D/N")):
        if column is None:
            continue
        ratios = column / expected
        factor = float(np.nanmedian(ratios))
        if not np.isfinite(factor):
            continue
        if not 1 / INCONSISTENT < factor < INCONSISTENT:
            raise UserError(
                f"column {name} is {factor:.3g} times {formula} in the median: {name}, N or D is in other units; give "
                f"a factor, as in {name}='{name}*{1 / factor:.0e}'"
            )
        with np.errstate(all="ignore"):
            far = np.flatnonzero(np.abs(np.log(ratios / factor)) > math.log(MIXED))
        if len(far):
            raise UserError(
                f"{name} is {ratios[far[0]]:.3g} times {formula} in row {far[0] + 1}{_and_more(far)}, and {factor:.3g} "
                f"times in the median: rows are in different units; give {name}, N and D of all rows in the same"
            )
