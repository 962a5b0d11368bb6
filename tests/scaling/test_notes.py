"""What a fit says of its data, and the units of tables that it refuses."""

import re

import numpy as np
import pytest

from pathways_lite.errors import UserError
from pathways_lite.scaling.checks import validate_columns
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.notes import fit_notes
from pathways_lite.scaling.solver import Solution, solve
from pathways_lite.scaling.units import check_units

Table = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def solution(rungs: Table) -> Solution:
    return solve(CHINCHILLA, rungs)


def notes_on(solution: Solution, table: Table) -> str:
    return " ".join(fit_notes(solution, table))


def test_good_data_have_no_notes(solution: Solution, rungs: Table) -> None:
    assert fit_notes(solution, rungs) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: {**t, "L": np.where(np.arange(15) == 3, 9.8, t["L"])}, "8 times the usual residual: row 4"),
        (lambda t: {**t, "L": np.exp(t["L"])}, "perplexities"),
        (lambda t: {**t, "L": t["L"] + 3}, "perplexities"),
        (lambda t: {**t, "D": np.full(15, 1e9)}, "D is 1e+09 in every row: the fit holds for that D only"),
        (lambda t: {k: np.append(v, v[:2]) for k, v in t.items()}, "2 rows repeat another row exactly"),
        (lambda t: {**t, "N": np.where(np.arange(15) < 3, t["N"] / 1e3, t["N"])}, "N has 3 rows up to 1e+04"),
        (lambda t: {**t, "D": t["N"] * 20 * (1 + 1e-3 * np.arange(15))}, "Two inputs vary together"),
        (lambda t: {**t, "N": t["D"], "D": t["N"]}, "swapped"),
    ],
)  # fmt: skip
def test_odd_data_are_noted(solution: Solution, rungs: Table, change, sentence: str) -> None:
    """Each is said of that table, and not of the good one."""
    assert sentence in notes_on(solution, change(rungs))


@pytest.mark.parametrize(
    ("scales", "advice"),
    [
        ({"N": 1e-9}, "N='N*1e9'"),
        ({"N": 1e-6}, "N='N*1e6'"),
        ({"N": 1e-9, "D": 1e-9}, "N='N*1e9' D='D*1e9'"),
        ({"N": 1e-6, "D": 1e-9}, "N='N*1e6' D='D*1e9'"),
        ({"D": 1e-6}, "D='D*1e6'"),
        ({"D": 1e-9}, "D='D*1e9'"),
        ({"N": 1e9}, "N='N*1e-9'"),
    ],
)
@pytest.mark.parametrize("with_compute", [False, True])
def test_the_advised_factor_gives_the_units_of_the_law(
    rungs: Table, scales: dict[str, float], advice: str, with_compute: bool
) -> None:
    table = {name: column * scales.get(name, 1) for name, column in rungs.items()}
    if with_compute:
        table["C"] = 6 * rungs["N"] * rungs["D"]
    with pytest.raises(UserError, match="in other units") as caught:
        validate_columns(CHINCHILLA, table)
    assert advice in str(caught.value)
    mended = dict(table)
    for name, factor in re.findall(r"(\w)='\w\*([0-9e-]+)'", str(caught.value)):
        mended[name] = mended[name] * float(factor)
    np.testing.assert_allclose(validate_columns(CHINCHILLA, mended)["N"], rungs["N"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: {**t, "N": np.where(np.arange(15) == 14, t["N"] / 1e6, t["N"])}, "column N has 1e\\+03 in row 15"),
        (lambda t: {**t, "C": 6 * t["N"] * t["D"] * np.repeat([1e3, 1], [2, 13])}, "6ND in row 1 and the like"),
    ],
)  # fmt: skip
def test_rows_in_different_units_are_refused(rungs: Table, change, sentence: str) -> None:
    table = change(rungs)
    with pytest.raises(UserError, match=sentence):
        check_units({name: table[name] for name in ("N", "D", "L")}, table)
