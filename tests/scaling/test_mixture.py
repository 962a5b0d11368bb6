"""The best mixture: known optima on the simplex, limits, intervals, sizes, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.scaling.fit import Fit, fit_law
from pathways_lite.scaling.laws.mixing import linear_mixing_law
from pathways_lite.scaling.laws.registry import find_law
from pathways_lite.scaling.mixture import optimal_mixture
from pathways_lite.scaling.solver import predict, solve
from pathways_lite.scaling.table import write_table

NAMES = ("web", "code", "books")


def mixes(rows: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    shares = np.random.default_rng(seed).dirichlet(np.ones(3), rows)
    return dict(zip(NAMES, shares.T, strict=True))


def exponential(own: str) -> np.ndarray:
    """The loss on a domain, which falls with its own share."""
    return 2 + 0.6 * np.exp(-3 * mixes()[own])


@pytest.fixture(scope="module")
def fits() -> list[Fit]:
    law = find_law("mixing:web,code,books")
    return [
        fit_law(law, {**mixes(), "L": exponential(own)}, bootstraps=20, starts=5, method="bootstrap") for own in NAMES
    ]


def test_equal_domains_are_mixed_equally(fits: list[Fit]) -> None:
    best = optimal_mixture(fits)
    for share in best.shares.values():
        assert share.value == pytest.approx(1 / 3, abs=1e-3)
        assert share.low <= share.value + 1e-3
    assert best.loss == pytest.approx(2 + 0.6 * np.exp(-1), rel=1e-5)
    assert best.loss == pytest.approx(best.equal_loss, rel=1e-6)
    assert best.loss < best.best_measured


def test_weights_shift_the_optimum_as_calculus_says(fits: list[Fit]) -> None:
    """At the optimum w_i exp(-3 r_i) is the same for all domains: shares differ by ln(w_i/w_j)/3."""
    best = optimal_mixture(fits, [2, 1, 1])
    difference = best.shares["web"].value - best.shares["code"].value
    assert difference == pytest.approx(np.log(2) / 3, abs=1e-3)
    assert sum(share.value for share in best.shares.values()) == pytest.approx(1)


def test_limits_are_kept(fits: list[Fit]) -> None:
    best = optimal_mixture(fits, bounds={"web": (0.0, 0.1), "books": (0.5, 1.0)})
    assert best.shares["web"].value == pytest.approx(0.1, abs=1e-6)
    assert best.shares["books"].value == pytest.approx(0.5, abs=1e-6)
    for bounds, sentence in (
        ({"web": (0.0, 0.1), "code": (0.0, 0.1), "books": (0.0, 0.1)}, "no mixture satisfies"),
        ({"music": (0.0, 0.1)}, "not a domain"),
    ):
        with pytest.raises(UserError, match=sentence):
            optimal_mixture(fits, bounds=bounds)
    with pytest.raises(UserError, match="a weight"):
        optimal_mixture(fits, [1, -1, 1])


def test_one_target_has_its_optimum_at_a_corner(fits: list[Fit]) -> None:
    best = optimal_mixture(fits[:1])
    assert best.shares["web"].value == pytest.approx(1, abs=1e-6)
    assert "always has its optimum at the limits" in best.notes[0]


def test_a_linear_law_is_regmix() -> None:
    law = linear_mixing_law(NAMES)
    true = {"t_web": 3.1, "t_code": 2.4, "t_books": 2.9}
    solution = solve(law, {**mixes(), "L": predict(law, true, mixes())}, starts=3)
    assert solution.values == pytest.approx(true, rel=1e-6)


SIZED = {
    "E": 1.2,
    "C_web": 2.0,
    "C_code": 1.0,
    "g_web": 0.5,
    "g_code": 0.4,
    "A": 200.0,
    "alpha": 0.3,
    "B": 400.0,
    "beta": 0.3,
}
JOINT = {"A_code": 2.5, "gA": 0.6, "B_code": 0.4, "gB": 0.7}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["additive-mixing", "joint-mixing"])
def test_sized_mixtures_are_recovered(family: str) -> None:
    law = find_law(f"{family}:web,code")
    values = SIZED | (JOINT if family == "joint-mixing" else {})
    rng = np.random.default_rng(0)
    web = rng.uniform(0.05, 0.95, 200)
    table = {"web": web, "code": 1 - web, "N": 10 ** rng.uniform(7, 10, 200), "D": 10 ** rng.uniform(9, 12, 200)}
    table["L"] = predict(law, values, table)
    fit = fit_law(law, table, starts=40)
    np.testing.assert_allclose(fit.predicted(), table["L"], rtol=1e-4)
    points = {}
    for N in (1e7, 1e10):
        points[N] = optimal_mixture([fit], others={"N": N, "D": 20 * N}).shares["web"].value
        grid = np.linspace(0.001, 0.999, 999)
        losses = predict(law, values, {"web": grid, "code": 1 - grid, "N": np.full(999, N), "D": np.full(999, 20 * N)})
        assert points[N] == pytest.approx(grid[np.argmin(losses)], abs=0.02)
    moved = abs(points[1e7] - points[1e10])
    assert moved < 1e-3 if family == "additive-mixing" else moved > 0.02


def test_the_command(tmp_path: Path) -> None:
    table = mixes() | {f"loss_{own}": exponential(own) for own in NAMES}
    write_table(table, tmp_path / "mixes.csv")
    arguments = ["fit", "mixture", str(tmp_path / "mixes.csv"), "--bootstraps", "0", "--starts", "3", "--json"]
    arguments += [word for name in NAMES for word in ("--domain", name, "--target", f"loss_{name}")]
    result = CliRunner().invoke(app, [*arguments, "--at-most", "books=0.2"], catch_exceptions=False)
    facts = json.loads(result.stdout)
    assert facts["shares"]["books"]["value"] == pytest.approx(0.2, abs=1e-6)
    assert facts["shares"]["web"]["value"] == pytest.approx(0.4, abs=2e-3)
    assert Fit.load(tmp_path / "mixture-loss_web.json").origin["target"] == "loss_web"
    with pytest.raises(UserError, match="no column 'loss_x'"):
        CliRunner().invoke(app, [*arguments, "--target", "loss_x"], catch_exceptions=False)


def test_shares_of_a_prediction_add_up_to_one(fits: list[Fit], tmp_path: Path) -> None:
    fits[0].save(tmp_path / "mixing.json")
    predict_at = ["fit", "predict", str(tmp_path / "mixing.json")]
    output = CliRunner().invoke(app, [*predict_at, "web=.5", "code=.5", "books=0"], catch_exceptions=False).output
    assert float(output.split()[1]) == pytest.approx(2 + 0.6 * np.exp(-1.5), rel=1e-4)
    for shares, sentence in ((("5", "4", "1"), "add up to 10"), (("1.5", "-.5", "0"), "not negative")):
        terms = [f"{name}={share}" for name, share in zip(NAMES, shares, strict=True)]
        with pytest.raises(UserError, match=sentence):
            CliRunner().invoke(app, [*predict_at, *terms], catch_exceptions=False)
