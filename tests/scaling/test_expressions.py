"""Conditions over columns, and that nothing else of Python runs."""

import numpy as np
import pytest

from pathways_lite.errors import UserError
from pathways_lite.scaling.expressions import evaluate, rows_where

TABLE = {
    "dataset": np.array(["comma", "dclm", "comma"], dtype=object),
    "N": np.array([1e8, 2e8, 4e8]),
    "Model Size": np.array(["1B", "2B", "4B"], dtype=object),
    "config.lr": np.array([0.1, 0.2, np.nan]),
}


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ('dataset == "comma"', [0, 2]),
        ('dataset != "comma"', [1]),
        ('dataset == "comma" and N > 1e8', [2]),
        ('not dataset == "comma" or N == 1e8', [0, 1]),
        ("N in (1e8, 4e8)", [0, 2]),
        ("N not in [1e8]", [1, 2]),
        ("1e8 < N <= 4e8", [1, 2]),
        ("`Model Size` >= 2e9", [1, 2]),
        ("`Model Size` == '2B'", [1]),
        ("N == '200M'", [1]),
        ("config.lr < 0.15", [0]),
        ("contains(dataset, 'cl')", [1]),
        ("log10(N) > 8.1", [1, 2]),
        ("N**2 / N - 1e8 > -N + 2e8", [1, 2]),
    ],
)
def test_conditions(condition: str, rows: list[int]) -> None:
    assert np.flatnonzero(rows_where(condition, TABLE)).tolist() == rows


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        ('dataset == "c4"', "selects none of 3 rows"),
        ("dataset == comma", "no column 'comma'"),
        ("N", "is not a condition"),
        ("N >", "is not an expression"),
        ("__import__('os').system('true') == 0", "not known here"),
        ("N.__class__ == 1", "no column 'N.__class__'"),
        ("(lambda: 1)() == 1", "not known here"),
        ("[x for x in N] == 1", "not known here"),
        ("N['a'] == 1", "not known here"),
        ("dataset > 3", "holds text"),
        ("N == 'many'", "is not a number"),
        ("N in 3", "needs a list"),
    ],
)
def test_mistakes_are_told_and_nothing_else_runs(condition: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        rows_where(condition, TABLE)
    assert "\n" not in str(caught.value)


def test_values_have_a_row_each() -> None:
    assert evaluate("2", TABLE).tolist() == [2, 2, 2]
