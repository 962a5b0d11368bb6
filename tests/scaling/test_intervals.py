"""Intervals of the law, of a run and of a forecast, against simulations, textbooks and other methods."""

import math
import warnings
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from scipy import stats

from pathways_lite.scaling import bootstrap
from pathways_lite.scaling.delta import linearize, loss_inefficiency
from pathways_lite.scaling.fit import Fit, fit_law
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.laws.downstream import CONCEPTS
from pathways_lite.scaling.laws.inference import COVERAGE
from pathways_lite.scaling.laws.mixing import mixing_law
from pathways_lite.scaling.losses import Huber, LeastAbsolute, LeastSquares
from pathways_lite.scaling.profile import profile_half_widths
from pathways_lite.scaling.quality import noise_of_runs, quality, worst_rows
from pathways_lite.scaling.quantities import Prediction
from pathways_lite.scaling.rehearsal import Rehearsal, order_of_size
from pathways_lite.scaling.solver import refit_weighted, solve
from pathways_lite.scaling.uncertainty import choose_method, forecast_factor

Table = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def line() -> Table:
    """Twelve accuracies over frequencies: a line in log10, for which regression has an exact theory."""
    x = np.geomspace(1e1, 1e6, 12)
    noise = np.random.default_rng(0).normal(0, 0.01, 12)
    return {"frequency": x, "accuracy": 0.1 + 0.1 * np.log10(x) + noise}


@pytest.fixture(scope="module")
def ladder(rungs: Table) -> Fit:
    return fit_law(CHINCHILLA, rungs, loss=LeastSquares(), method="profile")


@pytest.mark.parametrize("method", ["delta", "profile"])
def test_a_line_has_the_intervals_of_linear_regression(line: Table, method) -> None:
    fit = fit_law(CONCEPTS, line, method=method)
    x, y = np.log10(line["frequency"]), line["accuracy"]
    known = stats.linregress(x, y)
    t = stats.t.ppf(0.975, 10)
    slope = fit.parameter_intervals()["b"]
    assert (slope.low, slope.high) == pytest.approx((known.slope - t * known.stderr, known.slope + t * known.stderr))
    sigma = math.sqrt(np.sum((y - known.intercept - known.slope * x) ** 2) / 10)
    at = 8.0
    leverage = 1 / 12 + (at - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)
    for kind, error in (("law", sigma * math.sqrt(leverage)), ("run", sigma * math.sqrt(1 + leverage))):
        interval = fit.predict({"frequency": 10**at}, kind=kind)[0]
        assert interval.high - interval.value == pytest.approx(t * error, rel=1e-3), kind
        assert interval.value - interval.low == pytest.approx(t * error, rel=1e-3), kind


def test_a_profile_is_where_the_best_fit_with_that_value_leaves_the_region(rungs: Table, ladder: Fit) -> None:
    """With E fixed so that the prediction is at the limit, the refitted RSS is RSS_min (1 + F / df)."""
    goal = {"N": np.array([4e9]), "D": np.array([1e11])}
    linear = linearize(CHINCHILLA, ladder.values, rungs, "log", LeastSquares())
    low, high = profile_half_widths(linear, Prediction(CHINCHILLA, "log"), goal, 0.95)[:, 0]
    best, rss = math.log(ladder.predict(goal)[0].value), 2 * ladder.objective
    allowed = rss * (1 + stats.f.ppf(0.95, 1, 10) / 10)
    from scipy import optimize

    def rss_at(log_prediction: float) -> float:
        def residuals(p: np.ndarray) -> np.ndarray:
            a, b, alpha, beta = p
            terms = [np.exp(a - alpha * np.log(n / 1e8)) + np.exp(b - beta * np.log(d / 2e9))
                     for n, d in ((rungs["N"], rungs["D"]), (goal["N"], goal["D"]))]  # fmt: skip
            return np.log(np.maximum(math.exp(log_prediction) - terms[1] + terms[0], 1e-3)) - np.log(rungs["L"])

        v = ladder.values
        start = [math.log(v["A"] / 1e8 ** v["alpha"]), math.log(v["B"] / 2e9 ** v["beta"]), v["alpha"], v["beta"]]
        return 2 * optimize.least_squares(residuals, start, xtol=1e-12, ftol=1e-12).cost

    for end in (best - low, best + high):
        assert rss_at(end) == pytest.approx(allowed, rel=0.01)


def test_an_interval_where_the_floor_went_to_zero_stays_finite(rungs: Table) -> None:
    """E is fitted as a logarithm: its linearization is infinite there, the profile of a prediction is not."""
    steep = {**rungs, "L": 480 / rungs["N"] ** 0.3 + 2000 / rungs["D"] ** 0.37 - 0.15 + 0.005 * np.sin(np.arange(15))}
    fit = fit_law(CHINCHILLA, steep, loss=LeastSquares(), method="profile")
    assert fit.values["E"] < 1e-3
    interval = fit.predict({"N": 4e9, "D": 1e11})[0]
    assert 0.5 * interval.value < interval.low < interval.value < interval.high < 2 * interval.value


@pytest.mark.slow
def test_ladders_are_covered() -> None:
    """200 ladders of 14 runs: about 95 %, where the bootstrap of rungs held 83 to 87 %."""
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
    from ladder_coverage import measure

    (row,) = measure(LeastSquares(), ("profile",), 200, 0.006, 0)
    assert 0.91 <= row["held"] <= 0.99
    assert 0.91 <= row["run_held"] <= 0.99
    assert row["width"] <= 0.029
    assert row["width_90"] <= 0.037


def test_the_price_of_a_robust_loss() -> None:
    """Huber's between least squares and absolute residuals, and 1.345 standard deviations cost 5 %."""
    assert loss_inefficiency(LeastSquares(), 0.1) == 1
    assert loss_inefficiency(LeastAbsolute(), 0.1) == pytest.approx(math.pi / 2)
    assert loss_inefficiency(Huber(0.1345), 0.1) == pytest.approx(1 / 0.95, rel=1e-3)
    assert loss_inefficiency(Huber(1e-9), 0.1) == pytest.approx(math.pi / 2, rel=1e-3)
    assert loss_inefficiency(Huber(10.0), 0.1) == pytest.approx(1)


def test_methods_are_chosen_by_rows_per_parameter() -> None:
    assert choose_method(CHINCHILLA, 50, Huber(), grouped=False) == "bootstrap"
    assert choose_method(CHINCHILLA, 49, Huber(), grouped=False) == "delta"
    assert choose_method(CHINCHILLA, 49, LeastSquares(), grouped=False) == "profile"
    assert choose_method(CHINCHILLA, 5, Huber(), grouped=False) is None
    assert choose_method(CHINCHILLA, 20, Huber(), grouped=True) == "bootstrap"
    assert choose_method(COVERAGE, 500, LeastSquares(), grouped=False) is None


# ---- runs ----


def test_new_runs_are_in_the_interval_of_a_run(line: Table) -> None:
    """A hundred rows with heavy tails, by the bootstrap: 95 % of new rows inside the range."""
    rng = np.random.default_rng(1)

    def draw(rows: int) -> Table:
        x = 10 ** rng.uniform(1, 6, rows)
        return {"frequency": x, "accuracy": 0.1 + 0.1 * np.log10(x) + 0.01 * rng.standard_t(4, rows)}

    fit = fit_law(CONCEPTS, draw(100), bootstraps=200)
    assert fit.method == "bootstrap"
    new = draw(2000)
    intervals = fit.predict(new, kind="run")
    held = np.mean([i.contains(y) for i, y in zip(intervals, new["accuracy"], strict=True)])
    assert held == pytest.approx(0.95, abs=0.025)
    inside = fit.predict(new)[0]
    assert intervals[0].low < inside.low < inside.high < intervals[0].high


def test_few_groups_are_widened(line: Table) -> None:
    """Four runs of three points: by Student's t with 3 degrees of freedom and sqrt(4/3)."""
    groups = np.repeat(["a", "b", "c", "d"], 3)
    fit = fit_law(CONCEPTS, line, bootstraps=200, groups=groups)
    low, high = bootstrap.bootstrap_limits(fit.samples["b"])
    interval = fit.parameter_intervals()["b"]
    factor = math.sqrt(4 / 3) * stats.t.ppf(0.975, 3) / stats.norm.ppf(0.975)
    assert np.log(interval.high / interval.value) == pytest.approx(factor * np.log(high / interval.value))
    assert np.log(interval.low / interval.value) == pytest.approx(factor * np.log(low / interval.value))
    assert any("Only 4 groups" in note for note in fit.notes)


# ---- forecasts ----


def test_a_wrong_law_is_found_out_by_its_rehearsals() -> None:
    """A line through data that bend: the interval of a run misses the end, that of a forecast has it."""
    rng = np.random.default_rng(0)
    x = np.geomspace(1e1, 1e6, 60)
    bent = 0.1 + 0.02 * np.log10(x) ** 2 + rng.normal(0, 0.002, 60)
    fit = fit_law(CONCEPTS, {"frequency": x[:48], "accuracy": bent[:48]}, bootstraps=100)
    assert fit.rehearsal is not None
    assert fit.rehearsal.by == "frequency"
    assert fit.rehearsal.factor > 1.5
    beyond = {"frequency": x[48:]}
    held = {
        kind: np.mean([i.contains(y) for i, y in zip(fit.predict(beyond, kind=kind), bent[48:], strict=True)])
        for kind in ("run", "forecast")
    }
    assert held["run"] < 0.5
    assert held["forecast"] > held["run"]


@pytest.mark.parametrize("method", ["delta", "bootstrap"])
def test_exact_data_need_no_wider_forecast(rungs: Table, method: Literal["delta", "bootstrap"]) -> None:
    """Errors and intervals are both zero, but for rounding."""
    exact = {**rungs, "L": 1.8 + 480 / rungs["N"] ** 0.35 + 2000 / rungs["D"] ** 0.37}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_law(CHINCHILLA, exact, bootstraps=10, method=method)
        assert fit.rehearsal is not None
        assert fit.rehearsal.misses
        assert fit.rehearsal.factor == 1
        (forecast,) = fit.predict({"N": np.array([1e10]), "D": np.array([1e12])}, kind="forecast")
    assert forecast.high - forecast.low < 1e-4


def test_a_forecast_inside_the_data_is_a_run_and_grows_beyond(ladder: Fit) -> None:
    fit = replace(ladder, rehearsal=Rehearsal("C", 10.0, ((2.0, 3.0), (1.0,))))
    assert fit.rehearsal is not None
    assert fit.rehearsal.factor == 3
    C = 6 * ladder.data["N"] * ladder.data["D"]
    largest = int(np.argmax(C))
    times = np.array([1.0, 10.0, 1000.0])
    inputs = {"N": ladder.data["N"][largest] * np.ones(3), "D": ladder.data["D"][largest] * times}
    assert forecast_factor(fit, inputs) == pytest.approx([1, 3, 9])
    run, forecast = (fit.predict(inputs, kind=kind) for kind in ("run", "forecast"))
    assert (forecast[0].low, forecast[0].high) == pytest.approx((run[0].low, run[0].high))
    for r, f in zip(run[1:], forecast[1:], strict=True):
        assert f.low < r.low < r.high < f.high


def test_rows_are_ordered_by_compute_or_the_first_size() -> None:
    rng = np.random.default_rng(0)
    N, D, L = (rng.uniform(1, 2, 9) for _ in range(3))
    name, sizes = order_of_size(CHINCHILLA, {"N": N, "D": D, "L": L}) or ("", np.zeros(0))
    assert name == "C"
    np.testing.assert_allclose(sizes, 6 * N * D)
    assert order_of_size(mixing_law(("a", "b")), {"a": N, "b": D, "L": L}) is None


def test_a_fit_is_the_same_from_its_file_with_all_intervals(ladder: Fit, tmp_path) -> None:
    ladder.save(tmp_path / "fit.json")
    loaded = Fit.load(tmp_path / "fit.json")
    goal = {"N": 4e9, "D": 1e11}
    for kind in ("law", "run", "forecast"):
        assert loaded.predict(goal, kind=kind) == ladder.predict(goal, kind=kind)
    assert loaded.rehearsal == ladder.rehearsal
    assert loaded.refit().predict(goal, kind="forecast") == ladder.predict(goal, kind="forecast")


# ---- averages over problems ----


@pytest.fixture(scope="module")
def problems() -> Table:
    """Pass@k of 60 problems whose rates differ by orders of magnitude."""
    rng = np.random.default_rng(0)
    rates, k = 10 ** rng.uniform(-3, 0, 60), np.array([1.0, 3, 10, 30, 100])
    problem, ks = np.repeat([f"p{i}" for i in range(60)], 5), np.tile(k, 60)
    return {"problem": problem.astype(object), "k": ks, "coverage": 1 - (1 - np.repeat(rates, 5)) ** ks}


def test_a_long_table_is_fitted_as_its_means_and_resampled_by_problem(problems: Table) -> None:
    fit = fit_law(COVERAGE, problems, groups=problems["problem"], bootstraps=100)
    k = np.unique(problems["k"])
    means = np.array([problems["coverage"][problems["k"] == n].mean() for n in k])
    short = fit_law(COVERAGE, {"k": k, "coverage": means}, bootstraps=100)
    assert fit.values["b"] == pytest.approx(short.values["b"], rel=1e-5)
    assert quality(fit)["r2"] == pytest.approx(quality(short)["r2"], rel=1e-5)
    # By problem, the standard error of the mean at k = 10 is that of 60 values.
    at_ten = problems["coverage"][problems["k"] == 10]
    interval = fit.predict({"k": 10.0})[0]
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * at_ten.std() / math.sqrt(60), rel=0.3)
    assert short.method is None
    assert not short.predict({"k": 10.0})[0].has_limits
    assert any("--by" in note for note in short.notes)


# ---- quality, and large tables ----


def test_the_noise_of_a_run_is_that_of_repeats(rungs: Table) -> None:
    doubled = {name: np.tile(column, 2) for name, column in rungs.items()}
    noise = np.random.default_rng(0).normal(0, 0.01, 30)
    fit = fit_law(CHINCHILLA, {**doubled, "L": doubled["L"] * np.exp(noise)}, loss=LeastSquares())
    spread, repeats = noise_of_runs(fit)
    assert repeats == 15
    assert spread == pytest.approx(np.sqrt(np.mean((noise[:15] - noise[15:]) ** 2) / 2))


def test_the_worst_row_is_named(rungs: Table) -> None:
    names = np.array([f"run-{i}" for i in range(15)], object)
    table = {**rungs, "L": rungs["L"] * np.where(np.arange(15) == 7, 1.2, 1), "run": names}
    worst = worst_rows(fit_law(CHINCHILLA, table))[0]
    assert worst.name == "run-7 (row 8)"
    assert worst.error == pytest.approx(0.2, abs=0.05)
    assert worst_rows(fit_law(CHINCHILLA, {k: table[k] for k in ("N", "D", "L")}))[0].name == "row 8"


def test_resamples_in_parts_are_the_resamples() -> None:
    parts = bootstrap.Resamples(7, 10, 3)
    whole = bootstrap.resample_weights(7, 10, 3)
    np.testing.assert_array_equal(np.concatenate([parts.draw(4), parts.draw(6)]), whole)


def test_fits_in_parts_are_the_fits(rungs: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    solution = solve(CHINCHILLA, rungs, loss=LeastSquares())
    weights = bootstrap.resample_weights(15, 6, 0)
    whole = refit_weighted(solution, rungs, weights)
    monkeypatch.setattr("pathways_lite.scaling.solver.MAX_WEIGHTS", 15 * 4)
    parts = refit_weighted(solution, rungs, weights)
    np.testing.assert_allclose(parts["alpha"], whole["alpha"], rtol=1e-6)


def test_many_rows_race_on_some_and_finish_on_all(rungs: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {name: np.tile(column, 4) for name, column in rungs.items()}
    many["L"] = many["L"] * np.exp(np.random.default_rng(0).normal(0, 1e-3, 60))
    exact = solve(CHINCHILLA, many, loss=LeastSquares())
    monkeypatch.setattr("pathways_lite.scaling.solver.MAX_RACE_ROWS", 30)
    raced = solve(CHINCHILLA, many, loss=LeastSquares())
    assert raced.objective == pytest.approx(exact.objective, rel=1e-9)
    assert raced.values == pytest.approx(exact.values, rel=1e-4)
    assert raced.reached == raced.starts
    assert bootstrap.default_count(1_000) == 1000
    assert bootstrap.default_count(1_000_000) == 50
