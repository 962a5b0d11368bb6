"""What a fit says of its data, and the units of tables that it refuses."""

import re

import numpy as np
import pytest

from pathways_lite.cli.fit_display import quality_lines
from pathways_lite.errors import UserError
from pathways_lite.scaling.checks import validate_columns
from pathways_lite.scaling.fit import fit_law
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.laws.inference import pass_at_k
from pathways_lite.scaling.laws.registry import find_law
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


K = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])


@pytest.mark.parametrize(
    ("law", "table", "value"),
    [
        ("coverage", {"k": K, "coverage": np.zeros(6)}, "0"),
        ("coverage", {"k": K, "coverage": np.array([0.0, -4e-16, -0.0, 1e-16, 0.0, 0.0])}, "0"),
        ("beta-coverage", {"k": K, "coverage": np.ones(6)}, "1"),
        ("task-accuracy", {"L": K / 10, "accuracy": np.full(6, 0.25)}, "0.25"),
        ("tokens", {"D": K * 1e9, "L": np.full(6, 2.5)}, "2.5"),
        ("critical-batch", {"L": K / 10, "B": np.full(6, 1e6)}, "1e+06"),
    ],
)
def test_a_target_that_never_changes_is_refused(law: str, table: Table, value: str) -> None:
    target = find_law(law).target
    with pytest.raises(
        UserError, match=rf"column {target} is {re.escape(value)} in all 6 rows, .* with another {target}"
    ):
        fit_law(find_law(law), table)


def test_without_a_correct_sample_coverage_is_exactly_0() -> None:
    coverage = pass_at_k(np.full(8, 64), np.zeros(8), np.arange(1, 65)[:, None])
    assert (coverage == 0).all()
    assert not np.signbit(coverage).any()


def test_errors_of_a_measured_0_have_no_size() -> None:
    """A share of 0 would be infinite, or of hundreds of digits."""
    fit = fit_law(find_law("coverage"), {"k": K, "coverage": np.array([0.0, 0.0, 0.01, 0.03, 0.1, 0.2])})
    lines = quality_lines(fit)
    assert lines[0].startswith("relative error (of rows whose coverage is not 0): mean ")
    assert max(map(len, " ".join(lines).split())) < 20
    worst = lines[1].partition("farthest from the law: ")[2]
    assert worst.startswith("row "), "by its residual, whatever was measured"


def test_a_law_that_says_no_more_than_the_mean_is_noted() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, 12)
    tasks = {"L": np.linspace(1, 2, 12), "accuracy": 0.25 + noise, "chance": np.full(12, 0.25)}
    tasks["accuracy_se"] = np.full(12, 0.03)
    said = " ".join(fit_law(find_law("task-accuracy"), tasks).notes)
    assert "do not show that accuracy depends on L: their mean describes them about as well as the law (R² is" in said
    assert "No accuracy is above chance (0.25) by more than two standard errors" in said
    falling = {**tasks, "accuracy": 0.25 + 0.7 / (1 + np.exp(8 * (tasks["L"] - 1.5))) + 0.1 * noise}
    assert not any("above chance" in note or "mean describes" in note for note in fit_law(
        find_law("task-accuracy"), falling
    ).notes)  # fmt: skip
    low = {**falling, "chance": np.full(12, 0.6)}
    assert "below chance (0.6), which no model falls to" in " ".join(fit_law(find_law("task-accuracy"), low).notes)


def test_one_run_is_told_that_checkpoints_are_rows(rungs: Table) -> None:
    own = {name: np.array([0.0]) for name in ("step", "C_stage", "D_stage", "C")}
    own |= {name: np.array(["x"], dtype=object) for name in ("stage", "lineage", "start")}
    own |= {
        "run": np.array(["runs/mine"], dtype=object),
        "N": np.array([1e6]),
        "D": np.array([1e7]),
        "L": np.array([3.0]),
    }
    with pytest.raises(UserError, match=r"1 row is too few .* `pathways-lite evaluate runs/mine --along` measures"):
        validate_columns(CHINCHILLA, own)
    with pytest.raises(UserError) as refused:
        validate_columns(CHINCHILLA, {name: rungs[name][:1] for name in ("N", "D", "L")})
    assert "--along" not in str(refused.value), "a table of others"
