"""Properties of the solver that need no published data."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from pathways_lite.errors import UserError
from pathways_lite.scaling import bootstrap, solver
from pathways_lite.scaling.checks import validate_columns
from pathways_lite.scaling.fit import Fit, fit_law, leave_largest_out
from pathways_lite.scaling.law import double_precision
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.losses import Huber, LeastAbsolute, LeastSquares, parse_loss
from pathways_lite.scaling.solver import refit_weighted, solve
from pathways_lite.scaling.table import read_table, write_table

Table = dict[str, np.ndarray]


def test_double_precision_stays_inside() -> None:
    with double_precision():
        assert jnp.ones(1).dtype == jnp.float64
    assert jnp.ones(1).dtype == jnp.float32
    assert not jax.config.jax_enable_x64


def test_a_fit_leaves_float32_the_default(rungs: Table) -> None:
    solve(CHINCHILLA, rungs)
    assert jnp.asarray(1.5).dtype == jnp.float32


@pytest.mark.parametrize("loss", [Huber(1e-3), pytest.param(LeastSquares(), marks=pytest.mark.slow)], ids=str)
def test_never_worse_than_scipy(rungs: Table, loss: Huber | LeastSquares) -> None:
    solution = solve(CHINCHILLA, rungs, loss=loss)

    def objective(p: np.ndarray) -> float:
        a, b, e, alpha, beta = p
        predicted = np.exp(e) + np.exp(a - alpha * np.log(rungs["N"])) + np.exp(b - beta * np.log(rungs["D"]))
        r = np.log(predicted) - np.log(rungs["L"])
        if isinstance(loss, LeastSquares):
            return float(0.5 * np.sum(r * r))
        inner = np.clip(r, -1e-3, 1e-3)
        return float(np.sum(inner * (r - 0.5 * inner)))

    v = solution.values
    start = np.array([np.log(v["A"]), np.log(v["B"]), np.log(v["E"]), v["alpha"], v["beta"]])
    assert objective(start) == pytest.approx(solution.objective, rel=1e-9)
    polished = optimize.minimize(objective, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-16})
    assert solution.objective <= polished.fun * (1 + 1e-9)
    assert solution.reached >= 15


@pytest.mark.slow
def test_all_starts_are_counted_however_long_they_take(rungs: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are not done after the first evaluations are finished, not counted as elsewhere."""
    patient = solve(CHINCHILLA, rungs, starts=40)
    monkeypatch.setattr(solver, "SCREENING_EVALUATIONS", 20)
    hurried = solve(CHINCHILLA, rungs, starts=40)
    assert hurried.reached == patient.reached == 40


@pytest.mark.parametrize("L", [2.5, 1.0])
def test_a_constant_loss_gives_no_warnings(rungs: Table, L: float) -> None:
    """A fit refuses it, but resamples of few rows may be all alike."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        constant = {**rungs, "L": np.full(15, L)}
        assert solve(CHINCHILLA, constant, starts=5).predict(constant) == pytest.approx(constant["L"], rel=1e-3)


def test_least_absolute_is_the_limit_of_huber(rungs: Table) -> None:
    absolute = solve(CHINCHILLA, rungs, loss=LeastAbsolute())
    huber = solve(CHINCHILLA, rungs, loss=Huber(1e-7))
    assert absolute.objective == pytest.approx(huber.objective / 1e-7, rel=1e-3)


def test_weights_are_repeated_rows(rungs: Table) -> None:
    base = solve(CHINCHILLA, rungs)
    weights = bootstrap.resample_weights(len(rungs["L"]), 20, seed=1)
    samples = refit_weighted(base, rungs, weights)
    for i, w in enumerate(weights[:3]):
        repeated = {name: np.repeat(column, w.astype(int)) for name, column in rungs.items()}
        repeated_fit = solve(CHINCHILLA, repeated)
        assert samples["alpha"][i] == pytest.approx(repeated_fit.values["alpha"], rel=1e-5)


def test_groups_are_drawn_whole() -> None:
    groups = np.array(["a", "a", "b", "c", "c", "c"])
    for w in bootstrap.resample_weights(6, 20, 0, groups):
        assert w[0] == w[1]
        assert w[3] == w[4] == w[5]
        assert w[0] + w[2] + w[3] == 3
    with pytest.raises(UserError, match="two runs"):
        bootstrap.resample_weights(2, 1, 0, np.array(["a", "a"]))


def test_intervals_of_a_mean() -> None:
    """For the mean of normal draws both kinds of intervals agree with the textbook."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 1, 200)
    samples = np.array([rng.choice(x, 200).mean() for _ in range(4000)])
    jackknife = np.array([np.delete(x, i).mean() for i in range(200)])
    for extra in ({}, {"estimate": x.mean(), "jackknife": jackknife}):
        low, high = bootstrap.bootstrap_limits(samples, 0.95, **extra)
        assert (low, high) == pytest.approx(
            (x.mean() - 1.96 * x.std() / 200**0.5, x.mean() + 1.96 * x.std() / 200**0.5), abs=0.02
        )


def test_a_skewed_statistic_has_a_skewed_interval() -> None:
    rng = np.random.default_rng(0)
    x = rng.exponential(size=40)
    samples = np.array([rng.choice(x, 40).var() for _ in range(4000)])
    jackknife = np.array([np.delete(x, i).var() for i in range(40)])
    plain = bootstrap.bootstrap_limits(samples, 0.9)
    better = bootstrap.bootstrap_limits(samples, 0.9, estimate=x.var(), jackknife=jackknife)
    assert better[0] > plain[0]
    assert better[1] > plain[1]


def test_a_fit_is_repeated_from_its_file(rungs: Table, tmp_path) -> None:
    fit = fit_law(CHINCHILLA, rungs, bootstraps=20, method="bootstrap")
    fit.save(tmp_path / "fit.json")
    loaded = Fit.load(tmp_path / "fit.json")
    assert loaded.values == fit.values
    again = loaded.refit()
    assert again.values == fit.values
    np.testing.assert_array_equal(again.samples["alpha"], fit.samples["alpha"])
    best = loaded.optimal(1e21)
    assert best["N"].low <= best["N"].value <= best["N"].high
    prediction = loaded.predict({"N": 1e10, "D": 2e11})[0]
    assert prediction.low < prediction.value < prediction.high
    assert prediction.value == pytest.approx(1.8 + 480 / 1e10**0.35 + 2000 / 2e11**0.37, rel=0.01)


def test_a_file_changed_by_hand_is_refused(rungs: Table, tmp_path) -> None:
    fit_law(CHINCHILLA, rungs).save(tmp_path / "fit.json")
    text = (tmp_path / "fit.json").read_text()
    (tmp_path / "fit.json").write_text(text.replace("10000000.0", "10000001.0", 1))
    with pytest.raises(UserError, match="digest"):
        Fit.load(tmp_path / "fit.json")
    (tmp_path / "fit.json").write_text("{}")
    with pytest.raises(UserError, match="is not a fit"):
        Fit.load(tmp_path / "fit.json")


@pytest.mark.slow
def test_the_largest_runs_are_predicted(rungs: Table) -> None:
    fit, predicted, measured = leave_largest_out(CHINCHILLA, rungs, by="N")
    assert fit.rows == 12
    np.testing.assert_allclose(predicted, measured, rtol=0.01)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: {k: v[:4] for k, v in t.items()}, "4 rows are too few for the 5 parameters"),
        (lambda t: {k: v[:2] for k, v in t.items()}, r"add at least 3, .*determine: .*kaplan-d"),
        (lambda t: {k: v[:0] for k, v in t.items()}, "empty"),
        (lambda t: {**t, "N": np.full(15, 1e8)}, "single value"),
        (lambda t: {**t, "L": np.where(np.arange(15) == 3, np.nan, t["L"])}, "nan in row 4"),
        (lambda t: {**t, "D": np.where(np.arange(15) == 3, np.inf, t["D"])}, "inf in row 4"),
        (lambda t: {**t, "L": -t["L"]}, "must be positive"),
        (lambda t: {**t, "N": t["N"] / 1e6}, "in other units"),
        (lambda t: {**t, "D": t["D"] / 1e9}, "in other units"),
        (lambda t: {**t, "N": t["N"] * 1e6}, "in other units"),
        (lambda t: {**t, "D": t["D"] * 1e6}, "in other units"),
        (lambda t: {**t, "N": t["N"] / 1e6, "D": t["D"] / 1e6}, "in other units"),
        (lambda t: {**t, "C": 6 * t["N"] * t["D"] * 1e6}, "in other units"),
        (lambda t: {**t, "L": t["L"] * 1e6}, "in other units"),
        (lambda t: {**t, "L": np.array(["x"] * 15, dtype=object)}, "holds text"),
        (lambda t: {"N": t["N"], "L": t["L"]}, "no column D"),
        (lambda t: {k: np.tile(v[[0, 4]], 8) for k, v in t.items()}, "only 2 different inputs"),
    ],
)
def test_insufficient_data_are_refused_in_one_sentence(rungs: Table, change, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        validate_columns(CHINCHILLA, change(rungs))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_with_other_column_names_are_read(ending: str, rungs: Table, tmp_path) -> None:
    theirs = {
        "size_M": rungs["N"] / 1e6,
        "tokens": rungs["D"],
        "final loss": rungs["L"],
        "run": np.array(["r"] * 15, dtype=object),
    }
    write_table(theirs, tmp_path / f"runs.{ending}")
    table = read_table(tmp_path / f"runs.{ending}", {"N": "size_M*1e6", "D": "tokens", "L": "final loss"})
    np.testing.assert_allclose(table["N"], rungs["N"])
    assert table["run"][0] == "r"
    with pytest.raises(UserError, match="no column 'loss'"):
        read_table(tmp_path / f"runs.{ending}", {"L": "loss"})


def test_losses_round_trip_through_their_names() -> None:
    for loss in (Huber(1e-3), Huber(5e-9), LeastAbsolute(), LeastSquares()):
        assert parse_loss(str(loss)) == loss
    for wrong in ("huber:-1", "huber:x", "mean", "lad:2"):
        with pytest.raises(UserError, match="there is no loss"):
            parse_loss(wrong)
