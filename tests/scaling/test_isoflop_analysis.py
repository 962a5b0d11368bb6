"""IsoFLOP profiles: the known optimum, intervals that hold it, the parabola's bias, and the command."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.scaling.isoflop import PowerLaw
from pathways_lite.scaling.isoflop_analysis import analyze_isoflops, budget_of_rows
from pathways_lite.scaling.laws import chinchilla
from pathways_lite.scaling.table import write_table

SYMMETRIC = {"A": 480.0, "B": 480.0, "E": 1.8, "alpha": 0.35, "beta": 0.35}
Table = dict[str, np.ndarray]


def profiles(law: dict[str, float], noise: float, seed: int = 0, offset: float = 1.0, span: float = 4.0) -> Table:
    """Seven sizes around (times `offset`) the optimum of four budgets."""
    rng = np.random.default_rng(seed)
    C = np.repeat([1e18, 4e18, 1.6e19, 6.4e19], 7)
    best = np.asarray(chinchilla.optimal(law, C)["N"])
    N = best * offset * np.tile(np.geomspace(1 / span, span, 7), 4)
    L = chinchilla.loss(law, {"N": N, "D": C / (6 * N)}) * np.exp(noise * rng.normal(size=28))
    return {"C": C, "N": N, "L": np.asarray(L, np.float64)}


def test_symmetric_profiles_have_no_bias() -> None:
    """With equal exponents the loss is even in ln N around its minimum, so parabolas are exact about it."""
    analysis = analyze_isoflops(profiles(SYMMETRIC, 0.0), at=1e22, bootstraps=0)
    truth = chinchilla.optimal(SYMMETRIC, 1e22)
    for estimate in analysis.estimates:
        assert estimate.exponent.value == pytest.approx(0.5, abs=1e-4), estimate.method
        assert estimate.N.value == pytest.approx(float(truth["N"]), rel=2e-3), estimate.method
    assert [e.method for e in analysis.estimates] == ["approach 2", "approach 3 (Huber)", "variable projection"]
    assert analysis.bias[0] == pytest.approx(1, abs=2e-3)
    assert analysis.bias[1] == pytest.approx(0, abs=1e-4)
    assert isinstance(analysis.size_law, PowerLaw)


def test_the_bias_of_off_center_sizes_is_told() -> None:
    law = {"A": 480.0, "B": 100.0, "E": 1.8, "alpha": 0.45, "beta": 0.25}
    analysis = analyze_isoflops(profiles(law, 0.0, offset=1.8, span=6), at=1e24, bootstraps=0)
    truth = float(chinchilla.optimal(law, 1e24)["N"])
    found = analysis.estimates[0].N.value / truth
    assert abs(math.log(found)) > 0.05, "the parabolas are wrong here"
    assert analysis.bias[0] == pytest.approx(found, rel=0.02), "and the check says by how much"
    assert any("extrapolation" in note for note in analysis.notes)


@pytest.mark.slow
def test_intervals_hold_the_optimum() -> None:
    """Of the optimum of budgets and of the extrapolated size, in 100 draws of noise; sizes are centered."""
    truth = float(chinchilla.optimal(SYMMETRIC, 1e21)["N"])
    by_budget, at_target, exponents = [], [], []
    for seed in range(100):
        analysis = analyze_isoflops(profiles(SYMMETRIC, 3e-3, seed), at=1e21, bootstraps=300, seed=seed)
        for profile in analysis.profiles:
            by_budget.append(profile.N.contains(float(chinchilla.optimal(SYMMETRIC, profile.C)["N"])))
        at_target.append(analysis.estimates[0].N.contains(truth))
        exponents.append(analysis.estimates[0].exponent.contains(0.5))
    assert np.mean(by_budget) > 0.88
    assert np.mean(at_target) > 0.92
    assert np.mean(exponents) > 0.92


def test_budgets_that_differ_a_little_are_one() -> None:
    C = np.array([1e18, 1.03e18, 0.98e18, 4e18, 4.1e18])
    budgets = budget_of_rows(C)
    assert len(np.unique(budgets)) == 2
    assert budgets[0] == budgets[1] == budgets[2] == pytest.approx(1.003e18, rel=1e-2)
    assert len(np.unique(budget_of_rows(C, 0.001))) == 5
    assert budget_of_rows(np.array([2e18, 2e18])).tolist() == [2e18, 2e18]


def test_optima_at_edges_are_not_used() -> None:
    table = profiles(SYMMETRIC, 0.0)
    kept = ~((table["C"] == 1e18) & (table["N"] < np.median(table["N"][table["C"] == 1e18]) * 1.1))
    analysis = analyze_isoflops({name: column[kept] for name, column in table.items()}, bootstraps=0)
    assert math.isnan(analysis.profiles[0].N.value)
    assert "1e+18" in analysis.notes[0]
    assert analysis.estimates[0].exponent.value == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(UserError, match="two"):
        analyze_isoflops({name: column[:7] for name, column in table.items()})
    with pytest.raises(UserError, match="positive numbers"):
        analyze_isoflops({**table, "L": np.full(28, np.nan)})


def test_the_command_writes_its_files(tmp_path: Path) -> None:
    table = profiles(SYMMETRIC, 2e-3)
    names = np.array(["ours"] * 28 + ["theirs"] * 28, dtype=object)
    write_table({"flops": np.tile(table["C"], 2), "size": np.tile(table["N"] / 1e6, 2), "dataset": names,
                 "L": np.concatenate([table["L"], table["L"] * 1.3])}, tmp_path / "runs.csv")  # fmt: skip
    arguments = ["fit", "isoflop", str(tmp_path / "runs.csv"), "C=flops", "N=size*1e6", "--where", 'dataset == "ours"']
    arguments += ["--at", "C=1e21", "--bootstraps", "50"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "Bias check" in result.output
    content = json.loads((tmp_path / "isoflop.json").read_text())
    assert content["kind"] == "isoflop"
    assert content["origin"]["where"] == ['dataset == "ours"']
    assert sum(len(profile["sizes"]) for profile in content["profiles"]) == 28
    assert "approach 3 (Huber)" in (tmp_path / "isoflop.html").read_text()
    assert (tmp_path / "isoflop.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).output)
    assert facts["estimates"][0]["N"]["low"] < facts["estimates"][0]["N"]["value"]


def test_published_exponents_of_porian(measurements: Path, tmp_path: Path) -> None:
    """With the spline of the authors, through the command."""
    path = measurements / "porian" / "isoflop_points.csv"
    for config, published in (
        ("rw/tuned/short/const/standard/val", 0.497),
        ("rw/base/short/kaplan/standard/val", 0.6035),
    ):
        arguments = [
            "fit",
            "isoflop",
            str(path),
            "C=flops",
            "N=n",
            "D=tokens",
            "L=loss",
            "--akima",
            "--bootstraps",
            "0",
        ]
        arguments += ["--where", f'config == "{config}"', "--out", str(tmp_path / "isoflop.json"), "--json"]
        facts = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).output)
        assert facts["estimates"][0]["exponent"]["value"] == pytest.approx(published, abs=0.005)
