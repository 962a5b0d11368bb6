"""Profiles, spreads and correlations of parameters: those of linear regression where a law is linear."""

import re

import numpy as np
import pytest
from scipy import stats

from pathways_lite.scaling.fit import Fit, fit_law
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.laws.downstream import CONCEPTS
from pathways_lite.scaling.parameter_plots import correlation_svg, profiles_svg
from pathways_lite.scaling.plots import residuals_svg
from pathways_lite.scaling.report import render
from pathways_lite.scaling.table import Table
from pathways_lite.scaling.valleys import correlations, limit_ratio, profiles, standard_deviations

ROWS = 12


@pytest.fixture(scope="module")
def line() -> Fit:
    """accuracy = a + b log10 frequency, with noise, by least squares."""
    rng = np.random.default_rng(5)
    x = rng.uniform(1, 5, ROWS)
    table = {"frequency": 10**x, "accuracy": 0.05 + 0.11 * x + 0.01 * rng.standard_normal(ROWS)}
    return fit_law(CONCEPTS, table, bootstraps=10, method="profile")


@pytest.fixture(scope="module")
def noisy(rungs: Table) -> Fit:
    """A Chinchilla fit with a bootstrap, and one row that the law misses by 17 %."""
    L = rungs["L"].copy()
    L[4] *= 1.2
    names = np.array([f"run-{i}" for i in range(len(L))], dtype=object)
    return fit_law(CHINCHILLA, {**rungs, "L": L, "run": names}, bootstraps=40, method="bootstrap", starts=5)


def regression(fit: Fit) -> tuple[np.ndarray, float]:
    """The covariance of a and b, and the variance of a row."""
    design = np.stack([np.ones(ROWS), np.log10(fit.data["frequency"])], axis=1)
    residuals = fit.data["accuracy"] - fit.predicted()
    variance = float(residuals @ residuals) / (ROWS - 2)
    return variance * np.linalg.inv(design.T @ design), variance


def test_a_profile_of_a_line_is_its_parabola(line: Fit) -> None:
    covariance, variance = regression(line)
    for i, (name, profile) in enumerate(profiles(line).items()):
        assert name == ("a", "b")[i]
        rise = (profile.values - line.values[name]) ** 2 / covariance[i, i] * variance
        np.testing.assert_allclose(profile.ratios, 1 + rise / (variance * (ROWS - 2)), rtol=1e-6)
        assert np.all(np.diff(profile.values) > 0)
        reach = np.abs(profile.values[[0, -1]] - line.values[name]) / np.sqrt(covariance[i, i])
        np.testing.assert_allclose(reach, 3, rtol=0.05)


def test_spreads_and_correlations_of_a_line(line: Fit) -> None:
    covariance, _ = regression(line)
    errors = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(standard_deviations(line), errors, rtol=1e-6)
    matrix = correlations(line)
    assert matrix is not None
    np.testing.assert_allclose(matrix, covariance / np.outer(errors, errors), rtol=1e-6)


def test_the_dotted_line_is_where_a_95_percent_interval_ends(line: Fit) -> None:
    """At the limit of the interval of a, the profile is at the ratio."""
    limit = limit_ratio(line)
    assert limit == pytest.approx(1 + stats.t.ppf(0.975, ROWS - 2) ** 2 / (ROWS - 2))
    profile, interval = profiles(line)["a"], line.parameter_intervals()["a"]
    assert np.interp(interval.high, profile.values, profile.ratios) == pytest.approx(limit, rel=0.02)


def test_a_bootstrap_gives_its_own_spreads(noisy: Fit) -> None:
    np.testing.assert_allclose(standard_deviations(noisy)[0], np.std(np.log(noisy.samples["A"])))
    matrix = correlations(noisy)
    assert matrix is not None
    assert matrix[0, 3] > 0.9  # A and alpha are known only together
    assert set(profiles(noisy)) == {"A", "B", "E", "alpha", "beta"}
    assert limit_ratio(noisy) is None  # of a robust loss it is not known


def test_exact_data_have_no_valley(rungs: Table) -> None:
    exact = 1.8 + 480 / rungs["N"] ** 0.35 + 2000 / rungs["D"] ** 0.37
    fit = fit_law(CHINCHILLA, {**rungs, "L": exact}, starts=5)
    assert profiles(fit) == {}
    assert profiles_svg(fit, "light") is None


def test_fits_without_intervals_have_no_spreads(rungs: Table) -> None:
    fit = fit_law(CHINCHILLA, rungs, starts=5)
    assert np.isnan(standard_deviations(fit)).all()
    assert correlations(fit) is None
    assert correlation_svg(fit, "light") is None


def test_the_page_shows_them(noisy: Fit) -> None:
    page = render(noisy)
    assert "run-4 (row 5)" in page
    assert "Profiles of the objective" in page
    assert "Correlations of the parameters" in page
    ours = re.findall(r"([\d.e]+) times ours", page)
    assert len(ours) == 3
    assert min(map(float, ours)) > 1
    # A is fitted as a logarithm: one sd is a factor; alpha is not.
    row = re.search(r"<tr><th[^>]*>A</th>(.*?)</tr>", page, re.DOTALL)
    assert row is not None
    assert re.search(r"× [\d.]+|× &gt; 1000", row[1])
    assert re.search(r"<tr><th[^>]*>alpha</th>.*?± [\d.]+", page, re.DOTALL)


def test_the_worst_rows_are_named_in_the_picture(noisy: Fit) -> None:
    assert residuals_svg(noisy, "light").count("run-4 (row 5)") == 2  # over N and over D
