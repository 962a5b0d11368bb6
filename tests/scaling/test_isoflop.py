"""Optimal sizes without a loss law, and crossings."""

import numpy as np
import pytest

from pathways_lite.errors import UserError
from pathways_lite.scaling.isoflop import (
    PowerLaw,
    crossing_point,
    find_crossover,
    fit_envelope,
    fit_optima,
    fit_power_law,
    isoflop_optima,
    variable_projection,
)
from pathways_lite.scaling.laws.chinchilla import optimal

VALUES = {"A": 480.0, "B": 480.0, "E": 1.8, "alpha": 0.35, "beta": 0.35}


def isoflops() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses around the optimum at seven budgets."""
    rows = [(C, optimal(VALUES, C)["N"] * f) for C in np.geomspace(1e18, 1e21, 7) for f in np.geomspace(0.25, 4, 9)]
    C, N = np.array(rows).T
    return C, N, VALUES["E"] + VALUES["A"] / N**0.35 + VALUES["B"] / (C / 6 / N) ** 0.35


@pytest.mark.parametrize("akima", [False, True])
def test_exponents_of_the_optimum(akima: bool) -> None:
    """beta/(alpha + beta), as approach 3 has it."""
    optima = isoflop_optima(*isoflops(), akima=akima)
    assert fit_optima(optima).exponent == pytest.approx(0.5, abs=0.01)


def test_an_optimum_at_the_edge_is_none() -> None:
    C, N, L = isoflops()
    left = np.array([optimal(VALUES, c)["N"] * 0.6 for c in C]) > N
    assert all(optimum.N is None for optimum in isoflop_optima(C[left], N[left], L[left], akima=True))
    with pytest.raises(UserError, match="0 budgets"):
        fit_optima(isoflop_optima(C[left], N[left], L[left], akima=True))


def test_the_envelope_of_training_curves() -> None:
    sizes = np.geomspace(1e7, 1e10, 24)
    N, D = (axis.ravel() for axis in np.meshgrid(sizes, np.geomspace(1e8, 1e12, 60), indexing="ij"))
    L = VALUES["E"] + VALUES["A"] / N**0.35 + VALUES["B"] / D**0.35
    inner = (6 * N * D > 1e17) & (6 * N * D < 1e21)
    of_n, of_d = fit_envelope(6 * N[inner] * D[inner], N[inner], L[inner])
    assert of_n.exponent + of_d.exponent == pytest.approx(1, abs=1e-9)
    assert of_n.exponent == pytest.approx(0.5, abs=0.05)
    with pytest.raises(UserError, match="one value of N"):
        fit_envelope(D, np.full(len(D), 1e8), L)


def test_variable_projection_recovers_the_law() -> None:
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6), indexing="ij"))
    values = variable_projection(N, D, 1.8 + 480 / N**0.34 + 2000 / D**0.37)
    assert values["alpha"] == pytest.approx(0.34, abs=1e-5)
    assert values["B"] == pytest.approx(2000, rel=1e-3)


def test_weights_of_a_power_law_are_repeated_rows() -> None:
    x, y = np.array([1.0, 2, 4, 8]), np.array([1.0, 2.2, 3.9, 8.5])
    w = np.array([1, 3, 0, 2])
    weighted, repeated = fit_power_law(x, y, w), fit_power_law(np.repeat(x, w), np.repeat(y, w))
    assert weighted.coefficient == pytest.approx(repeated.coefficient)
    assert weighted.exponent == pytest.approx(repeated.exponent)


def test_crossings() -> None:
    C = np.geomspace(1e17, 1e20, 12)
    rng = np.random.default_rng(0)
    first_losses, second_losses = (
        a * C**-b * np.exp(0.002 * rng.normal(size=12)) for a, b in ((30.0, 0.05), (60.0, 0.066))
    )
    exact = crossing_point(PowerLaw(30, -0.05, 1), PowerLaw(60, -0.066, 1))
    assert exact == pytest.approx(2 ** (1 / 0.016), rel=1e-9)
    crossover = find_crossover(C, first_losses, C, second_losses, bootstraps=300)
    assert crossover.C is not None
    assert crossover.low < exact < crossover.high
    assert crossover.crossing_fraction > 0.99
    parallel = find_crossover(C, first_losses, C, 1.5 * first_losses, bootstraps=50)
    assert parallel.C is None
    assert crossing_point(PowerLaw(1, -0.1, 1), PowerLaw(2, -0.1, 1)) is None
