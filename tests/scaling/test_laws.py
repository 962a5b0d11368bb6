"""Published constants, worked examples and identities of the laws, none of which needs data."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.errors import UserError
from pathways_lite.scaling import measurements
from pathways_lite.scaling.fit import Fit, fit_law
from pathways_lite.scaling.laws import chinchilla, hyperparameters, kaplan, overtraining, sparse
from pathways_lite.scaling.laws.annealing import MULTI_POWER, fall_columns, schedule_warnings
from pathways_lite.scaling.laws.broken import classify_shape
from pathways_lite.scaling.laws.downstream import (
    alignment_score,
    estimate_pass_until,
    knowledge_capacity,
    optimal_encoder_share,
    spearman_by_stage,
)
from pathways_lite.scaling.laws.inference import pass_at_k
from pathways_lite.scaling.laws.mixing import REPEATED_POOL, fit_regmix, mixed_pools_error, predict_regmix
from pathways_lite.scaling.laws.registry import find_law
from pathways_lite.scaling.laws.repetition import DATA_CONSTRAINED, optimal_allocation
from pathways_lite.scaling.laws.vocabulary import by_derivative, by_isoflop
from pathways_lite.scaling.losses import retrieval_score, retrieval_sigmoid
from pathways_lite.scaling.solver import predict


def published(law: str, index: int = 0) -> dict[str, float]:
    found = find_law(law)
    return dict(zip(found.names, found.published[index][1], strict=True))


def value(law: str, index: int = 0, **inputs: float) -> float:
    return float(predict(find_law(law), published(law, index), {k: np.array([v]) for k, v in inputs.items()})[0])


# ---- Kaplan, Unraveling ----


def test_kaplan() -> None:
    assert value("kaplan", N=1e9, D=1e10) == pytest.approx(2.41965, abs=1e-5)
    np.testing.assert_allclose(kaplan.critical_batch([2, 3, 4]), [7.381e6, 1.0714e6, 2.7241e5], rtol=1e-4)
    assert value("kaplan-steps", N=1e9, S=1e300) == pytest.approx(2.34744, abs=1e-5)
    assert kaplan.minimal_steps(1e9, 2.8) == pytest.approx(5960.4, rel=1e-5)
    with pytest.raises(UserError, match="never reach"):
        kaplan.minimal_steps(1e6, 2.0)


def test_compute_of_kaplan() -> None:
    """A batch far below the critical one wastes nothing, the critical one half; the optimum at a PF-day."""
    critical = float(kaplan.critical_batch(3.0))
    assert kaplan.minimal_compute(1e20, 1e-6 * critical, 3.0) == pytest.approx(1e20, rel=1e-5)
    assert kaplan.minimal_compute(1e20, critical, 3.0) == pytest.approx(5e19)
    assert kaplan.optimal_parameters(1.0) == pytest.approx(1.3e9)
    assert kaplan.optimal_parameters(10.0) / kaplan.optimal_parameters(1.0) == pytest.approx(10**0.73)


@settings(max_examples=40)
@given(st.floats(6, 11), st.floats(2, 7), st.floats(3, 8))
def test_the_implicit_loss_solves_its_equation(n: float, s: float, b: float) -> None:
    N, S, B = 10**n, 10**s, 10**b
    v = kaplan.TRAJECTORY
    L = float(kaplan.implicit_loss(N, S, B))
    smin = S / (1 + kaplan.critical_batch(L) / B)
    assert (v["Nc"] / N) ** v["aN"] + (v["Sc"] / smin) ** v["aS"] == pytest.approx(L, rel=1e-10)


def test_limits_of_the_implicit_loss() -> None:
    large = float(kaplan.implicit_loss(1e8, 1e5, 1e15))
    assert large == pytest.approx(value("kaplan-steps", N=1e8, S=1e5), rel=1e-6)
    losses = kaplan.implicit_loss(1e8, 1e5, np.array([1e4, 1e5, 1e6, 1e7]))
    assert np.all(np.diff(losses) < 0)


# ---- over-training ----


@pytest.mark.parametrize(
    ("index", "N", "M", "L"),
    [(0, 1.4e9, 640, 2.3914), (0, 6.8894e9, 20, 2.2810), (1, 1.4e9, 640, 2.5259), (1, 6.8894e9, 20, 2.4432),
     (2, 1.4e9, 640, 2.5025), (2, 6.8894e9, 20, 2.4147), (1, 1.4e9, 20, 2.7739)],
)  # fmt: skip
def test_overtraining_predictions(index: int, N: float, M: float, L: float) -> None:
    assert value("overtraining", index, C=6 * N * N * M, M=M) == pytest.approx(L, abs=6e-4)


@settings(max_examples=20)
@given(st.floats(0.05, 0.3), st.floats(50, 500), st.floats(50, 500), st.floats(17, 24))
def test_overtraining_is_chinchilla_with_one_exponent(eta: float, A: float, B: float, log_c: float) -> None:
    C = 10**log_c
    one = {"A": A, "B": B, "E": 1.8, "alpha": 2 * eta, "beta": 2 * eta}
    two = {"E": 1.8, "a": A * 6**eta, "b": B * 6**eta, "eta": eta}
    best, other = chinchilla.optimal(one, C), overtraining.optimal(two, C)
    assert best["tokens_per_parameter"] == pytest.approx(other["tokens_per_parameter"], rel=1e-6)
    assert float(best["L"]) == pytest.approx(float(other["L"]), rel=1e-5)


# ---- learning rates ----


def test_step_law() -> None:
    advice = hyperparameters.step_law(1e9, 1e11)
    assert advice == pytest.approx({"lr": 1.632e-3, "B": 1.108e6}, rel=1e-3)
    assert round(advice["B"] / 2048) == 541
    assert hyperparameters.step_law(7e9, 1.4e11) == pytest.approx({"lr": 4.520e-4, "B": 1.342e6}, rel=1e-3)
    with pytest.raises(UserError, match="positive"):
        hyperparameters.step_law(0, 1e9)


def test_annealing_areas() -> None:
    rates = measurements.make_schedule("cosine", 50, peak=1.0, warmup=5)
    m = total = 0.0
    for i, area in enumerate(measurements.annealing_area(rates, 0.9)):
        if i:
            m = 0.9 * m + rates[i - 1] - rates[i]
        total += m
        assert area == pytest.approx(total, abs=1e-12)
    flat = measurements.make_schedule("constant", 50, peak=1.0)
    assert np.all(measurements.annealing_area(flat) == 0)
    assert schedule_warnings(flat) == []
    assert len(schedule_warnings(np.array([1.0, 0.5, 0.0, 0.0]))) == 1
    assert len(schedule_warnings(np.array([1.0, 0.5, 0.7]))) == 1


def test_multi_power_law_by_its_definition() -> None:
    v = published("multi-power")
    rates = measurements.make_schedule("wsdld", 60, peak=3e-4, end=3e-5, warmup=10, stable=40)
    steps = np.array([20, 39, 45, 59])
    S1 = np.cumsum(rates)
    for row, s in zip(predict(MULTI_POWER, v, fall_columns([(rates, steps)])), steps, strict=True):
        drop = 0.0
        for k in range(1, s + 1):
            y = rates[k] ** -v["gamma"] * (S1[s] - S1[k - 1])
            drop += v["B"] * (rates[k - 1] - rates[k]) * (1 - (1 + v["C"] * y) ** -v["beta"])
        assert row == pytest.approx(v["L0"] + v["A"] * S1[s] ** -v["alpha"] - drop, rel=1e-12)


# ---- repetition, vocabulary, sparsity ----


def test_data_constrained() -> None:
    v = published("data-constrained")
    assert value("data-constrained", N=6.34e9, D=242e9, U=25e9) == pytest.approx(2.2256440889984477, abs=1e-7)
    assert value("data-constrained", N=8.67e9, D=178e9, U=25e9) == pytest.approx(2.2269634075087867, abs=1e-7)
    best = optimal_allocation(v, 1e22, 25e9)
    assert best["N"] == pytest.approx(7.0224e9, rel=1e-3)
    assert best["epochs"] == pytest.approx(9.493, rel=1e-3)
    fresh = {"N": np.array([1e8]), "D": np.array([1e9]), "U": np.array([1e9])}
    less = {**fresh, "U": np.array([1e10])}
    assert predict(DATA_CONSTRAINED, v, less) <= predict(DATA_CONSTRAINED, v, fresh)


def test_vocabulary() -> None:
    assert by_isoflop(7e9, 4096)["V"] == pytest.approx(62280, abs=6)
    assert by_derivative(7e9, 4096)["V"] == pytest.approx(67450, abs=6)


def test_average_parameters() -> None:
    assert sparse.average_parameters(np.array([0, 1e9]), np.array([3.0, 3.0])) == 3
    pruned = sparse.average_parameters(np.array([0, 25, 75, 100]), np.array([1e9, 1e9, 2e8, 2e8]))
    assert pruned == pytest.approx(6e8)
    with pytest.raises(UserError, match="two points"):
        sparse.average_parameters(np.array([1.0]), np.array([1.0]))


def test_quantisation() -> None:
    for bits, rise in ((2, 4.4771), (3, 0.48204), (4, 0.099158)):
        assert value("quantisation", N=7e9, D=1e12, P=bits) == pytest.approx(rise, rel=1e-4)
    for N, at_02, at_05 in ((1e9, 1.1e9, 6.6e9), (7e9, 2.6e9, 15.2e9), (70e9, 7.1e9, 40.9e9), (405e9, 15.1e9, 86.8e9)):
        assert sparse.tokens_until_rise(0.2, N, 2) == pytest.approx(at_02, rel=0.07)
        assert sparse.tokens_until_rise(0.5, N, 2) == pytest.approx(at_05, rel=0.07)


def test_experts_saturate() -> None:
    assert sparse.saturated_experts(1.0, 1.847, 314.478) == pytest.approx(1.847)
    assert sparse.saturated_experts(1e12, 1.847, 314.478) == pytest.approx(314.478)


# ---- downstream, test time ----


def test_pass_at_k() -> None:
    assert pass_at_k(100, 5, 10) == pytest.approx(0.416248, abs=1e-6)
    assert pass_at_k(10, 1, 5) == pytest.approx(0.5)
    np.testing.assert_allclose(pass_at_k(10_000, [0, 1, 10_000], 10_000), [0, 1, 1], atol=1e-9)
    with pytest.raises(UserError, match="pass@k"):
        pass_at_k(10, 1, 11)


@settings(deadline=None)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_product(counts: tuple[int, int, int]) -> None:
    n, c, k = counts
    wrong = np.prod([max(n - c - j, 0) / (n - j) for j in range(k)])
    assert pass_at_k(n, c, k) == pytest.approx(1 - wrong, abs=1e-9)


def test_coverage() -> None:
    coverage = predict(find_law("coverage"), {"a": 2, "b": 0.35}, {"k": np.array([1, 10, 100, 1000])})
    np.testing.assert_allclose(coverage, [0.135335, 0.409275, 0.670956, 0.836733], atol=1e-6)


def test_pass_until_is_unbiased() -> None:
    draws = np.random.default_rng(0).negative_binomial(2, 0.1, 200_000) + 2
    assert np.mean([estimate_pass_until(2, int(k)) for k in draws[:50_000]]) == pytest.approx(0.1, rel=0.02)
    assert np.mean(2 / draws) > 0.11, "r/K is biased upwards"
    with pytest.raises(UserError, match="at least two"):
        estimate_pass_until(1, 10)


def test_retrieval() -> None:
    x = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(retrieval_score(retrieval_sigmoid(x)), x, atol=1e-5)
    few, many = (value("retrieval", documents=k, shots=4, iterations=1, i_documents=0.5, i_shots=0.5) for k in (1, 100))
    score = 0.325 * np.log(1.001) + 0.101 * np.log(4.001) + 0.177 * np.log(1.001)
    score += -0.067 * 0.5 * np.log(1.001) - 0.008 * 0.5 * np.log(4.001) - 0.730
    assert few == pytest.approx(float(retrieval_sigmoid(score)), rel=1e-6)
    assert few < many


def test_other_downstream_laws() -> None:
    assert value("power", x=1000.0) == pytest.approx(47.97, abs=5e-3)
    assert alignment_score(1, 1) == pytest.approx(2.5)
    assert optimal_encoder_share({"pe": 0.18, "pd": 0.31}) == pytest.approx(0.18 / 0.49)
    assert knowledge_capacity(7e9) == pytest.approx(14e9)
    assert knowledge_capacity(7e9, 100) == pytest.approx(7e9)
    with pytest.raises(UserError, match="not measured"):
        knowledge_capacity(7e9, 10)


def test_the_encoders_share_is_the_minimum() -> None:
    v = published("encoder-decoder")
    share = optimal_encoder_share(v)
    shares = np.linspace(0.05, 0.95, 181)
    L = predict(find_law("encoder-decoder"), v, {"N_encoder": shares * 1e9, "N_decoder": (1 - shares) * 1e9})
    assert shares[np.argmin(L)] == pytest.approx(share, abs=0.006)


def test_rank_correlations_fall_with_every_stage() -> None:
    compute = np.geomspace(1e18, 1e22, 9)
    noise = np.random.default_rng(0).normal(size=9)
    correlations = spearman_by_stage(compute, {"nll": -np.log(compute), "accuracy": np.log(compute) + 20 * noise})
    assert correlations["nll"] == pytest.approx(-1)
    assert abs(correlations["accuracy"]) < 1


def test_shapes_are_distinguished() -> None:
    x = np.geomspace(1e18, 1e23, 12)
    u = np.log10(x) - 20.5
    noise = 0.003 * np.random.default_rng(0).normal(size=12)
    assert classify_shape(x, 0.5 - 0.05 * u + noise).kind == "falling"
    curve = classify_shape(x, 0.5 + 0.02 * u**2 + noise)
    assert curve.kind == "u"
    assert curve.turning_point == pytest.approx(10**20.5, rel=0.5)
    assert classify_shape(x, 0.5 - 0.02 * u**2 + noise).kind == "inverted u"
    with pytest.raises(UserError, match="at least 5"):
        classify_shape(x[:4], x[:4])


# ---- mixtures ----


def test_repeated_pools() -> None:
    """A power law within an epoch, and for ever without decay; equal pools are one large pool with slower decay."""
    n, pool = np.array([1e6, 1e7, 5e7, 1e8]), 1e7
    for_ever = {"a": 0.02, "b": 0.2, "tau": 1e12}
    single = predict(REPEATED_POOL, for_ever, {"samples": n, "pool": np.full(4, pool)})
    first_epoch = (0.02 * pool / 1e5) ** -0.2 + 0.1
    np.testing.assert_allclose(
        single, [(0.02 * 1e6 / 1e5) ** -0.2 + 0.1, first_epoch, first_epoch * 5**-0.2, first_epoch * 10**-0.2]
    )
    three = mixed_pools_error(n, pool, a=0.02, b=[0.2] * 3, tau=[4] * 3)
    one_large = predict(REPEATED_POOL, {"a": 0.02, "b": 0.2, "tau": 12}, {"samples": n, "pool": np.full(4, 3 * pool)})
    np.testing.assert_allclose(three, one_large)
    with pytest.raises(UserError, match="128 epochs"):
        mixed_pools_error([1e10], pool, a=0.02, b=[0.2], tau=[4])
    with pytest.raises(UserError, match="positive b"):
        mixed_pools_error(n, pool, a=0.02, b=[-0.2], tau=[4])


def test_linear_mixtures_are_recovered() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(4), 40)
    losses = 3 + shares @ np.array([0.1, -0.4, 0.3, 0.2])
    np.testing.assert_allclose(predict_regmix(fit_regmix(shares, losses), shares), losses, atol=1e-10)
    assert find_law("mixing:web, code").names == ("c", "k", "t_web", "t_code")
    assert find_law("mixing:web,code") is find_law("mixing:web, code"), "one law, compiled once"
    with pytest.raises(UserError, match="two domains"):
        find_law("mixing:web")
    with pytest.raises(UserError, match="must differ"):
        find_law("mixing:web,web")


def test_a_mixing_law_is_saved_and_read(tmp_path: Path) -> None:
    web = np.linspace(0, 1, 24)
    L = 2 + 0.5 * np.exp(-1.5 * web + 0.3 * (1 - web))
    fit = fit_law(find_law("mixing:web,code"), {"web": web, "code": 1 - web, "L": L}, bootstraps=0)
    fit.save(tmp_path / "mixing.json")
    loaded = Fit.load(tmp_path / "mixing.json")
    half = loaded.predict({"web": 0.5, "code": 0.5})[0].value
    assert half == pytest.approx(2 + 0.5 * np.exp(-0.6), rel=1e-5)
