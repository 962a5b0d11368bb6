"""Coverage, and its continuation beyond the samples: known answers and recovery of known distributions."""

import numpy as np
import pytest
from scipy import integrate, special, stats

from pathways_lite.errors import UserError
from pathways_lite.judging.beta_binomial import BetaCoverage, BetaFitter, coverage_scale, fit_beta_coverage
from pathways_lite.judging.coverage import coverage_by_problem, log_spaced, mean_over_problems, problem_resamples
from pathways_lite.scaling.laws.registry import find_law
from pathways_lite.scaling.solver import predict

KNOWN_K = np.array([1, 10, 100, 1000])
KNOWN_COVERAGE = [0.090909, 0.391573, 0.703925, 0.866442]  # of Beta(0.35, 3.5)


def test_pass_at_k_of_known_counts() -> None:
    np.testing.assert_allclose(coverage_by_problem([10], [3], [2, 5]), [[0.533333, 0.916667]], atol=1e-6)
    assert coverage_by_problem([100], [5], [10])[0, 0] == pytest.approx(0.416248, abs=1e-6)
    assert coverage_by_problem([5, 5], [0, 5], [3]).ravel() == pytest.approx([0, 1], abs=1e-12)


def test_the_estimator_is_unbiased_and_the_plug_in_is_not() -> None:
    n, p, k = 5, 0.3, 2
    c = np.arange(n + 1)
    probability = stats.binom.pmf(c, n, p)
    estimates = coverage_by_problem(np.full(n + 1, n), c, [k])[:, 0]
    assert probability @ estimates == pytest.approx(0.51, abs=1e-12)
    assert probability @ (1 - (1 - c / n) ** k) == pytest.approx(0.468, abs=1e-12)


def test_points_are_spaced_evenly_in_the_logarithm() -> None:
    assert log_spaced(1).tolist() == [1]
    ks = log_spaced(4096)
    assert ks[0] == 1
    assert ks[-1] == 4096
    assert 30 <= len(ks) <= 40
    assert np.diff(np.log(ks[-15:])).std() < 0.01


def test_intervals_resample_problems_and_variants_together() -> None:
    """The interval of equal variants is that of one of them: more variants are no more evidence."""
    values = np.random.default_rng(0).random((40, 2))
    _, low, high = mean_over_problems(values, problem_resamples(40))
    np.testing.assert_allclose(high - low, 2 * 1.96 * values.std(axis=0) / np.sqrt(40), rtol=0.1)
    variants = np.repeat(values, 5, axis=0)
    groups = [f"g{i // 5}" for i in range(200)]
    _, low_grouped, high_grouped = mean_over_problems(variants, problem_resamples(200, groups))
    np.testing.assert_allclose(high_grouped - low_grouped, high - low, rtol=0.1)
    _, low_one, _ = mean_over_problems(values[:1], problem_resamples(1))
    assert np.isnan(low_one).all()


def test_coverage_of_a_known_beta() -> None:
    np.testing.assert_allclose(BetaCoverage(0.35, 3.5).coverage(KNOWN_K), KNOWN_COVERAGE, atol=1e-6)
    law = predict(find_law("beta-coverage"), {"alpha": 0.35, "beta": 3.5}, {"k": KNOWN_K.astype(float)})
    np.testing.assert_allclose(law, KNOWN_COVERAGE, atol=1e-6)
    far = -np.log(BetaCoverage(0.35, 3.5).coverage([1e4, 1e5]))
    assert np.log(far[1] / far[0]) / np.log(10) == pytest.approx(-0.3574, abs=1e-4)


@pytest.mark.parametrize(("alpha", "beta", "scale"), [(0.05, 2, 0.4), (0.35, 3.5, 0.7), (40, 60, 0.9), (2, 0.1, 1.0)])
def test_integration_agrees_with_quadrature(alpha: float, beta: float, scale: float) -> None:
    ks = [1, 7, 1000]
    for k, ours in zip(ks, BetaCoverage(alpha, beta, scale).coverage(ks), strict=True):
        # In the quantile the Beta distribution is uniform.
        failures, _ = integrate.quad(
            lambda q, k=k: (1 - scale * special.betaincinv(alpha, beta, q)) ** k, 0, 1, limit=500
        )
        assert ours == pytest.approx(1 - failures, abs=2e-6)


def test_the_likelihood_is_beta_binomial_without_a_scale() -> None:
    """The fit is at the maximum of SciPy's beta-binomial likelihood."""
    rng = np.random.default_rng(1)
    n = np.full(200, 50)
    c = rng.binomial(n, rng.beta(0.4, 2.0, 200))
    fit = fit_beta_coverage(n, c, scale=1.0)
    likelihood = lambda a, b: stats.betabinom.logpmf(c, n, a, b).sum()  # noqa: E731
    best = likelihood(fit.alpha, fit.beta)
    assert all(best >= likelihood(fit.alpha * x, fit.beta * y) for x in (0.97, 1, 1.03) for y in (0.97, 1, 1.03))


def test_coverage_beyond_the_samples_is_predicted() -> None:
    """From 64 samples of many problems the coverage at 4096 is found, where the largest probability is 0.5 too."""
    rng = np.random.default_rng(2)
    truth = BetaCoverage(0.4, 3.0, 0.5)
    n = np.full(1500, 64)
    fit = fit_beta_coverage(n, rng.binomial(n, truth.scale * rng.beta(truth.alpha, truth.beta, len(n))))
    assert fit.scale == pytest.approx(0.6, abs=0.12)
    assert float(fit.coverage(4096)[0]) == pytest.approx(float(truth.coverage(4096)[0]), abs=0.025)


def test_weights_are_repeated_problems() -> None:
    n, c = np.array([20, 20, 20, 30]), np.array([0, 3, 11, 2])
    weighted = BetaFitter(n, c).fit(np.array([2.0, 0, 1, 1]))
    repeated = fit_beta_coverage(n[[0, 0, 2, 3]], c[[0, 0, 2, 3]])
    assert weighted.scale == repeated.scale == coverage_scale(n[[0, 0, 2, 3]], c[[0, 0, 2, 3]])
    np.testing.assert_allclose(weighted.coverage([5, 100]), repeated.coverage([5, 100]), rtol=1e-3)


def test_nothing_correct_is_refused() -> None:
    with pytest.raises(UserError, match="no sample of any problem is correct"):
        fit_beta_coverage([10, 10], [0, 0])
