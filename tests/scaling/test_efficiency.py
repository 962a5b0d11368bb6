"""Efficiency factors of arms: known factors, intervals that hold them, changed exponents, seeds, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.scaling.efficiency import fit_efficiency, holm
from pathways_lite.scaling.laws.registry import find_law
from pathways_lite.scaling.table import write_table

Table = dict[str, np.ndarray]


def ladders(factors: dict[str, tuple[float, float]], noise: float, seed: int = 0) -> tuple[Table, np.ndarray]:
    """Sixteen runs per arm, whose tokens count f (D/1e10)^g times."""
    rng = np.random.default_rng(seed)
    N, M = (axis.ravel() for axis in np.meshgrid([2e7, 1e8, 4e8, 1.6e9], [10, 20, 40, 80], indexing="ij"))
    tables, arms = [], []
    for arm, (f, g) in factors.items():
        D = N * M
        L = 1.8 + 480 / N**0.35 + 2000 / (f * (D / 1e10) ** g * D) ** 0.37
        tables.append({"N": N, "D": D, "L": L * np.exp(noise * rng.normal(size=16))})
        arms += [arm] * 16
    table = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    return table, np.array(arms, dtype=object)


def test_known_factors_are_recovered() -> None:
    table, arms = ladders({"base": (1, 0), "method": (1.4, 0)}, 0.0)
    result = fit_efficiency(table, arms, baseline="base", goal={"D": 1e13})
    (factor,) = result.factors
    assert (factor.arm, factor.column) == ("method", "D")
    assert factor.shared.value == pytest.approx(1.4, rel=1e-4)
    assert factor.slope.value == pytest.approx(0, abs=1e-4)
    assert factor.goal is not None
    assert factor.goal.value == pytest.approx(1.4, rel=1e-2)
    swapped = np.where(arms == "base", "method", "base").astype(object)
    other = fit_efficiency(table, swapped, baseline="base")
    assert other.factors[0].shared.value == pytest.approx(1 / 1.4, rel=1e-4), "the baseline is a choice of units"


@pytest.mark.slow
def test_arms_have_factors_of_their_own() -> None:
    table, arms = ladders({"adamw": (1, 0), "muon": (1.4, 0), "soap": (0.8, 0)}, 1e-3)
    result = fit_efficiency(table, arms, baseline="adamw", scaled=("N", "D"))
    assert [(f.arm, f.column) for f in result.factors] == [("muon", "N"), ("soap", "N"), ("muon", "D"), ("soap", "D")]
    for factor, truth in zip(result.factors, (1, 1, 1.4, 0.8), strict=True):
        assert factor.shared.value == pytest.approx(truth, rel=0.1)
    assert result.rows == 48
    assert result.freedom == 48 - 9


def test_a_changed_exponent_is_found() -> None:
    table, arms = ladders({"base": (1, 0), "method": (1.5, -0.06)}, 1e-3)
    result = fit_efficiency(table, arms, baseline="base")
    (factor,) = result.factors
    assert result.p_value < 1e-3
    assert factor.p_value < 1e-3
    assert factor.slope.contains(-0.06)
    assert factor.smallest.value > 1.5 > factor.largest.value
    text = " ".join(result.sentences())
    assert "shrinks with D" in text
    assert "quote the factor with its scale" in text


def test_no_difference_is_called_none() -> None:
    table, arms = ladders({"base": (1, 0), "method": (1, 0)}, 3e-3)
    result = fit_efficiency(table, arms, baseline="base")
    assert result.factors[0].shared.contains(1)
    assert "no difference is shown" in result.sentences()[0]


@pytest.mark.slow
def test_intervals_and_tests_have_their_level() -> None:
    """In 150 draws of noise: the interval of a factor of two inputs, and the F test of exponents that are shared."""
    held, rejected = [], []
    for seed in range(150):
        table, arms = ladders({"base": (1, 0), "method": (1.3, 0)}, 5e-3, seed)
        result = fit_efficiency(table, arms, baseline="base")
        held.append(result.factors[0].shared.contains(1.3))
        rejected.append(result.p_value < 0.05)
    assert 0.91 < np.mean(held) <= 0.99
    assert np.mean(rejected) < 0.10


def curves_of(seeds: int, factor: float, seed_noise: float) -> tuple[Table, np.ndarray, np.ndarray]:
    """Losses along runs of two arms; a seed shifts both arms' compute alike, and each a little apart."""
    rng = np.random.default_rng(0)
    C = np.geomspace(1e16, 1e18, 12)
    parts, arms, labels = [], [], []
    for seed in range(seeds):
        shift = np.exp(0.1 * rng.normal())
        for arm, f in (("base", 1.0), ("method", factor)):
            own = f * shift * np.exp(seed_noise * rng.normal())
            parts.append((C, 1.7 + 1e3 * (own * C) ** -0.16))
            arms += [arm] * 12
            labels += [seed] * 12
    table = {"C": np.concatenate([c for c, _ in parts]), "L": np.concatenate([loss for _, loss in parts])}
    return table, np.array(arms, dtype=object), np.array(labels)


def test_rows_along_runs_have_intervals_over_seeds() -> None:
    """Rows of a run are not independent: the interval is as wide as the seeds say, not as the rows do."""
    table, arms, seeds = curves_of(6, 1.3, 0.05)
    result = fit_efficiency(table, arms, baseline="base", law="compute", scaled=("C",), seeds=seeds)
    interval = result.factors[0].shared
    assert interval.contains(1.3)
    half_width = np.log(interval.high / interval.low) / 2
    assert half_width == pytest.approx(2.57 * 0.05 * 2**0.5 / 6**0.5, rel=0.6)
    assert result.replicates == 6
    single = fit_efficiency(*curves_of(1, 1.3, 0.0)[:2], baseline="base", law="compute", scaled=("C",),
                            seeds=np.zeros(24))  # fmt: skip
    assert single.factors[0].shared.value == pytest.approx(1.3, rel=1e-3)
    assert not single.factors[0].shared.has_limits
    assert "there is no interval" in single.sentences()[0]


def test_p_values_are_corrected_for_their_number() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert np.isnan(holm([float("nan"), 0.02])[0])
    assert holm([float("nan"), 0.02])[1] == 0.02


def test_mistakes_are_told() -> None:
    table, arms = ladders({"a": (1, 0), "b": (1, 0)}, 1e-3)
    for settings, sentence in (
        ({"baseline": "c"}, "the baseline 'c'"),
        ({"baseline": "a", "law": "kaplan"}, "no factors are fitted with a law 'kaplan'"),
        ({"baseline": "a", "scaled": ("U",)}, "has no input U"),
    ):
        with pytest.raises(UserError, match=sentence):
            fit_efficiency(table, arms, **settings)
    with pytest.raises(UserError, match="efficiency:chinchilla"):
        find_law("efficiency:chinchilla,D,muon")


def test_the_command(tmp_path: Path) -> None:
    table, arms = ladders({"base": (1, 0), "method": (1.4, 0)}, 2e-3)
    write_table({**table, "optimizer": arms}, tmp_path / "runs.csv")
    arguments = ["fit", "arms", str(tmp_path / "runs.csv"), "--arm", "optimizer", "--baseline", "base", "--at", "D=1T"]
    output = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "it pays" in output
    facts = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).output)
    assert facts["factors"][0]["shared"]["low"] < 1.4 < facts["factors"][0]["shared"]["high"]
    assert facts["factors"][0]["goal"]["value"] == pytest.approx(1.4, rel=0.1)


def test_crossings_are_found_by_the_command(tmp_path: Path) -> None:
    C = np.geomspace(1e17, 1e20, 10)
    losses = np.concatenate([30 * C**-0.05, 30 * 1e19**0.02 * C**-0.07])
    arms = np.array(["old"] * 10 + ["new"] * 10, dtype=object)
    write_table({"C": np.tile(C, 2), "L": losses, "arm": arms}, tmp_path / "runs.csv")
    arguments = ["fit", "crossover", str(tmp_path / "runs.csv"), "--bootstraps", "100"]
    output = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "They cross at C = 1e+19" in output
    assert "above which new is better" in output
    with pytest.raises(UserError, match="two arms"):
        CliRunner().invoke(app, [*arguments, "--between", "old"], catch_exceptions=False)
