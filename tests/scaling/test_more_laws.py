"""Laws over repetition, breaks, experts, teachers, precision, tasks and features: known answers and limits."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.synthetic_runs import published_values, synthetic_runs
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.scaling.fit import Fit, fit_law
from pathways_lite.scaling.laws import farseer
from pathways_lite.scaling.laws.annealing import MULTI_POWER, fall_columns
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA, with_features
from pathways_lite.scaling.laws.hyperparameters import ADAMW_TIMESCALE, weight_decay_of_timescale
from pathways_lite.scaling.laws.precision import effective_parameters
from pathways_lite.scaling.laws.registry import LAWS, find_law
from pathways_lite.scaling.laws.repetition import DATA_CONSTRAINED, DATA_CONSTRAINED_C4
from pathways_lite.scaling.measurements import make_schedule, read_data_constrained
from pathways_lite.scaling.pooling import pooling_notes
from pathways_lite.scaling.solver import predict, solve
from pathways_lite.scaling.table import write_table


def value(law: str, **inputs: float) -> float:
    chosen = find_law(law)
    return float(predict(chosen, published_values(chosen), {k: np.array([v]) for k, v in inputs.items()})[0])


# ---- repeated data ----


def test_repetition_on_a_corpus_of_ones_own() -> None:
    """All constants are the corpus's own, not those of C4."""
    truth = {"A": 300.0, "B": 900.0, "E": 1.6, "alpha": 0.33, "beta": 0.36, "RD": 12.0, "RN": 6.0}
    rng = np.random.default_rng(0)
    U, N = 10 ** rng.uniform(8, 10.5, 80), 10 ** rng.uniform(7.5, 10, 80)
    table = {"N": N, "U": U, "D": U * 10 ** rng.uniform(0, 1.5, 80)}
    table["L"] = predict(DATA_CONSTRAINED, truth, table)
    fit = fit_law(DATA_CONSTRAINED, table)
    assert fit.values == pytest.approx(truth, rel=1e-3)
    assert fit.notes == ()


def test_the_best_size_for_unique_tokens_is_chinchillas() -> None:
    """N' = N up to the compute-optimal N of U tokens, also where alpha and beta differ."""
    v = {"A": 300.0, "B": 900.0, "E": 1.6, "alpha": 0.33, "beta": 0.45, "RD": 12.0, "RN": 6.0}
    best = CHINCHILLA.optimal({k: v[k] for k in ("A", "B", "E", "alpha", "beta")}, 1e21)  # type: ignore[misc]
    N, D = float(best["N"]), float(best["D"])
    plain = predict(CHINCHILLA, v, {"N": np.array([0.999 * N, 1.1 * N]), "D": np.array([D, D])})
    constrained = predict(
        DATA_CONSTRAINED, v, {"N": np.array([0.999 * N, 1.1 * N]), "D": np.full(2, D), "U": np.full(2, D)}
    )
    assert constrained[0] == pytest.approx(plain[0], rel=1e-12)
    assert constrained[1] > plain[1]


def test_a_fit_of_an_earlier_version_keeps_its_law(tmp_path: Path) -> None:
    """ "data-constrained" meant the law with the constants of C4."""
    fit = fit_law(DATA_CONSTRAINED_C4, synthetic_runs(DATA_CONSTRAINED_C4), bootstraps=0)
    fit.save(tmp_path / "fit.json")
    text = (tmp_path / "fit.json").read_text().replace('"data-constrained-c4"', '"data-constrained"')
    (tmp_path / "old.json").write_text(text)
    assert Fit.load(tmp_path / "old.json").law is DATA_CONSTRAINED_C4


def test_free_constants_describe_the_authors_runs_better(measurements: Path) -> None:
    table = read_data_constrained(measurements)
    free, fixed = solve(DATA_CONSTRAINED, table), solve(DATA_CONSTRAINED_C4, table)
    assert fixed.objective == pytest.approx(0.0158047, rel=1e-4)
    assert free.objective < 0.5 * fixed.objective
    assert "RN" in DATA_CONSTRAINED.remarks(free.values)[0]  # type: ignore[misc]


# ---- other forms ----


def test_kaplan_over_compute_has_the_constants_of_plain_compute() -> None:
    assert value("kaplan-c", C_pf_days=1.0) == pytest.approx(1.6e7**0.057)
    assert LAWS["kaplan-c"].published[1][1] == (3.1e8, 0.050)


def test_several_breaks() -> None:
    """One break is the law of one break; two are recovered."""
    one, named = find_law("broken"), find_law("broken:1")
    x = {"x": np.geomspace(1, 1e5, 40)}
    v = published_values(one)
    as_named = {"a": v["a"], "b": v["b"], "c0": v["c0"], "c1": v["c1"], "d1": v["d1"], "f1": v["f1"]}
    np.testing.assert_allclose(predict(named, as_named, x), predict(one, v, x), rtol=1e-12)
    two = find_law("broken:2")
    truth = {"a": 0.3, "b": 2.0, "c0": 0.05, "c1": 0.8, "d1": 50.0, "f1": 0.2, "c2": -0.6, "d2": 5e3, "f2": 0.2}
    table = {**x, "y": predict(two, truth, x)}
    solution = solve(two, table, starts=60)
    np.testing.assert_allclose(solution.predict(x), table["y"], rtol=1e-4)
    for wrong in ("broken:0", "broken:x", "broken:9"):
        with pytest.raises(UserError, match="N breaks"):
            find_law(wrong)


def test_farseers_constants_round_trip() -> None:
    constants = (-0.021, 0.169, -0.091, 88.01, -0.1, -6.287, -0.124, 0.123, 0.424)
    v = dict(zip(farseer.FARSEER.names, farseer.fitted_values(*constants), strict=True))
    names = ("a3", "g", "b3", "a2", "b", "b2", "a1", "a", "b1")
    assert farseer.farseer_constants(v) == pytest.approx(dict(zip(names, constants, strict=True)), rel=1e-9)
    N, D = 3e9, 5e10
    a3, g, b3, a2, b, b2, a1, a, b1 = constants
    written = np.exp(a3 * N**g + b3) + np.exp(a2 * N**b + b2) * D ** -np.exp(a1 * N**a + b1)
    assert float(predict(farseer.FARSEER, v, {"N": [N], "D": [D]})[0]) == pytest.approx(written, rel=1e-12)


@pytest.mark.parametrize(("N", "D"), [(1e9, 1e11), (9.96e7, 1e11), (2.51e10, 1e11), (3e9, 5.12e11), (4e8, 1e10)])
def test_farseers_constants_are_in_the_range_of_its_runs(N: float, D: float) -> None:
    """The authors' runs have N from 9.96e7 to 2.51e10, D from 1e9 to 5.12e11, losses from 0.438 to 0.675."""
    v = published_values(farseer.FARSEER)
    assert 0.43 < float(predict(farseer.FARSEER, v, {"N": [N], "D": [D]})[0]) < 0.675


def test_farseers_optimum_is_the_minimum_and_its_ratio_grows() -> None:
    v = published_values(farseer.FARSEER)
    budgets = np.array([1e20, 1e21, 1e22])
    best = farseer.optimal(v, budgets)
    assert best["tokens_per_parameter"][2] > 1.1 * best["tokens_per_parameter"][0]
    falling = farseer.fitted_values(-0.021, 0.169, -0.091, 88.01, -0.1, -6.287, -0.124, 0.123, 0.424)
    other = dict(zip(farseer.FARSEER.names, falling, strict=True))
    assert np.isnan(farseer.optimal(other, np.array([1e25]))["N"][0]), "these values have no optimum there"
    for C, N, L in zip(budgets, best["N"], best["L"], strict=True):
        near = N * np.geomspace(0.5, 2, 101)
        assert 1.1 < C / (6 * N * N) < 5e3
        assert predict(farseer.FARSEER, v, {"N": near, "D": C / (6 * near)}).min() >= L - 1e-6


def test_one_expert_is_a_dense_model() -> None:
    v = published_values(LAWS["moe"])
    dense = v["a"] * v["Estart"] ** v["delta"] * 1e9 ** (v["alpha"] + v["gamma"] * np.log(v["Estart"]))
    data = v["b"] * v["Estart"] ** v["omega"] * 2e10 ** (v["beta"] + v["zeta"] * np.log(v["Estart"]))
    assert value("moe", N_active=1e9, D=2e10, experts=1) == pytest.approx(dense + data + v["c"], rel=1e-9)


def test_full_precision_is_chinchilla() -> None:
    v = published_values(LAWS["precision"])
    dense = float(predict(CHINCHILLA, v, {"N": [1e9], "D": [2e10]})[0])
    assert value("precision", N=1e9, D=2e10, P_w=64, P_a=64, P_kv=64) == pytest.approx(dense, rel=1e-9)
    four = value("precision", N=1e9, D=2e10, P_w=4, P_a=64, P_kv=64)
    kept = 1 - np.exp(-4 / v["gamma_w"])
    assert four == pytest.approx(float(predict(CHINCHILLA, v, {"N": [1e9 * kept], "D": [2e10]})[0]), rel=1e-9)


def test_effective_parameters_of_published_precisions() -> None:
    """1 - exp(-bits/gamma) of weights, and the product at eight bits, as published notes on the paper have them."""
    v = published_values(LAWS["precision"])
    for bits, fraction in ((2, 0.527), (4, 0.776), (6, 0.894), (7, 0.927), (8, 0.950), (16, 0.997)):
        many = {"N": np.ones(1), "P_w": np.array([float(bits)]), "P_a": np.array([1e3]), "P_kv": np.array([1e3])}
        assert float(effective_parameters(v, many)[0]) == pytest.approx(fraction, abs=6e-4)
    eight = {"N": np.ones(1), **{f"P_{part}": np.array([8.0]) for part in ("w", "a", "kv")}}
    assert float(effective_parameters(v, eight)[0]) == pytest.approx(0.924, abs=6e-4)


def test_exponents_of_power_lines_are_in_their_published_intervals() -> None:
    """10 % and 90 % of the authors' resamples; of the critical batch, their exponent and that of Zhang et al."""
    exponents = {name: LAWS[name].published[0][1][1] for name in ("adamw-timescale", "optimal-batch")}
    assert -0.529 <= exponents["adamw-timescale"] <= -0.507
    assert 0.367 <= exponents["optimal-batch"] <= 0.391
    assert 0.46 <= LAWS["critical-batch-tokens"].published[0][1][1] <= 0.47


@pytest.mark.parametrize("domains", [2, 3, 7])
def test_mixtures_over_sizes_have_as_many_parameters_as_published(domains: int) -> None:
    """5 + 2k in equation 2.4, 5 + 4k in equation 2.5, for k domains."""
    names = ",".join(f"d{i}" for i in range(domains))
    assert len(find_law(f"additive-mixing:{names}").parameters) == 5 + 2 * domains
    assert len(find_law(f"joint-mixing:{names}").parameters) == 5 + 4 * domains


def test_a_students_loss_falls_with_its_teachers_until_the_gap() -> None:
    law = LAWS["distillation"]
    teachers = np.linspace(1.7, 3.2, 60)
    inputs = {"N": np.full(60, 3e8), "D": np.full(60, 2e10), "supervised_loss": np.full(60, 2.8)}
    losses = predict(law, published_values(law), {**inputs, "teacher_loss": teachers})
    best = int(np.argmin(losses))
    assert 0 < best < 59, "a teacher can be too good, and too bad"


def test_weight_decay_of_a_timescale() -> None:
    c, m = ADAMW_TIMESCALE.published[0][1]
    tau = c * 20**m
    assert weight_decay_of_timescale(1e9, 2e10, 1e6, 3e-3) == pytest.approx(1e6 / (3e-3 * 2e10 * tau))
    with pytest.raises(UserError, match="positive"):
        weight_decay_of_timescale(1e9, 2e10, 1e6, 0)


def test_features_are_nested_in_chinchilla() -> None:
    law = with_features(CHINCHILLA, ("width", "depth"))
    rng = np.random.default_rng(0)
    table = synthetic_runs(CHINCHILLA) | {"width": 2.0 ** rng.integers(7, 12, 60), "depth": rng.integers(3, 40, 60)}
    flat = {"c_width": 0.0, "c_depth": 0.0, "g_width": 0.3, "g_depth": 0.3} | published_values(CHINCHILLA)
    np.testing.assert_allclose(predict(law, flat, table), table["L"], rtol=1e-12)
    truth = flat | {"c_width": 3.0, "c_depth": 0.4, "g_width": 0.6, "g_depth": 0.8}
    table["L"] = predict(law, truth, table)
    assert solve(law, table).objective < 1e-12
    with pytest.raises(UserError, match="added to chinchilla"):
        with_features(LAWS["kaplan"], ("width",))
    with pytest.raises(UserError, match="different columns"):
        find_law("features:N")


def test_a_law_of_schedules_is_fitted_like_any_other() -> None:
    rates = make_schedule("wsdld", 400, peak=3e-4, end=3e-5, warmup=20, stable=200)
    columns = fall_columns([(rates, np.arange(40, 400, 6))], max_groups=20)
    table = {**columns, "L": predict(MULTI_POWER, published_values(MULTI_POWER), columns)}
    fit = fit_law(MULTI_POWER, table, starts=1)
    assert fit.rows == 60


# ---- pooled experiments ----


def test_rows_of_different_experiments_are_told(tmp_path: Path) -> None:
    runs = synthetic_runs(CHINCHILLA, rows=60, noise=1e-3)
    names = np.array(["a", "b", "c"] * 20, dtype=object)
    runs["L"] = runs["L"] * np.select([names == "b", names == "c"], [1.1, 1.25], 1.0)
    table = {**runs, "dataset": names, "run": np.array([f"r{i}" for i in range(60)], dtype=object)}
    (note,) = pooling_notes(fit_law(CHINCHILLA, table, starts=5), table)
    assert "--each 'dataset'" in note
    alone = {name: column[names == "a"] for name, column in table.items()}
    assert pooling_notes(fit_law(CHINCHILLA, alone, starts=5), alone) == []
    write_table(table, tmp_path / "runs.csv")
    arguments = ["fit", "chinchilla", str(tmp_path / "runs.csv"), "--each", "dataset", "--bootstraps", "0", "--json"]
    facts = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert list(facts["fits"]) == ["a", "b", "c"]
    assert all(fit["worst_relative_error"] < 0.01 for fit in facts["fits"].values())
    assert (tmp_path / "chinchilla-a.json").exists()


def test_crashed_runs_are_left_out(tmp_path: Path) -> None:
    runs = synthetic_runs(CHINCHILLA, rows=20, noise=1e-3)
    runs["L"][3] = np.nan
    table = {**runs, "State": np.array(["finished"] * 10 + ["crashed"] + ["finished"] * 9, dtype=object)}
    write_table(table, tmp_path / "runs.csv")
    arguments = ["fit", "chinchilla", str(tmp_path / "runs.csv"), "--bootstraps", "0"]
    with pytest.raises(UserError, match=r"nan in row 4; leave such rows out \(--drop-missing\)"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    words = "1 of 19 rows are of runs that are not finished (State: crashed)"
    with_crashed = CliRunner().invoke(app, [*arguments, "--drop-missing", "--json"], catch_exceptions=False).output
    assert any(note.startswith(words) for note in json.loads(with_crashed)["notes"])
    arguments += ["--drop-missing", "--where", 'State == "finished"']
    output = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "18 rows" in output
    assert "not finished" not in output
    assert "1 of 19 rows left out without a number: L in 1." in output


def test_laws_over_other_names_are_compared(tmp_path: Path) -> None:
    rectified = LAWS["rectified"]
    write_table(synthetic_runs(rectified, rows=30), tmp_path / "sft.csv")
    arguments = ["fit", "compare", str(tmp_path / "sft.csv"), "--law", "rectified", "--law", "power-floor", "--json"]
    facts = json.loads(CliRunner().invoke(app, [*arguments, "--by", "D_examples"], catch_exceptions=False).stdout)
    assert [law["law"] for law in facts["laws"]] == ["rectified", "power-floor"]
