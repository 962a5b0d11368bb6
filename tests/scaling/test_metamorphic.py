"""Properties of the fit of every law."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.synthetic_runs import SCALAR_LAWS, published_values, rescale, synthetic_runs
from pathways_lite.scaling import bootstrap
from pathways_lite.scaling.law import Law, double_precision
from pathways_lite.scaling.laws.registry import LAWS
from pathways_lite.scaling.solver import objective_of, refit_weighted, solve

# One law of each kind in the fast suite, all of them in the slow one: each is a program to compile.
FAST = ("chinchilla",)
EVERY = [pytest.param(law, id=law.name, marks=() if law.name in FAST else pytest.mark.slow) for law in SCALAR_LAWS]


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_working_coordinates_lose_nothing(law: Law) -> None:
    """From natural values to centered logarithms and back."""
    if law in SCALAR_LAWS:
        columns = synthetic_runs(law, rows=8)
    else:
        columns = {name: np.linspace(1, 2, 8) for name in law.inputs}
    values = published_values(law)
    with double_precision():
        centers = law.centers(columns)
        back = law.from_working(law.to_working(values, centers), centers)
    for name, value in values.items():
        assert float(back[name]) == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("law", SCALAR_LAWS, ids=lambda law: law.name)
def test_its_own_data_fit_perfectly(law: Law) -> None:
    table = synthetic_runs(law)
    assert objective_of(law, published_values(law), table) < 1e-20
    assert np.isfinite(table[law.target]).all()


@pytest.mark.parametrize("law", EVERY)
class TestEveryLaw:
    def test_noise_free_data_are_recovered(self, law: Law) -> None:
        table = synthetic_runs(law)
        solution = solve(law, table)
        np.testing.assert_allclose(solution.predict(table), table[law.target], rtol=1e-6)
        for name, value in published_values(law).items():
            assert solution.values[name] == pytest.approx(value, rel=1e-6), name

    @settings(max_examples=3, derandomize=True)
    @given(seed=st.integers(0, 100))
    def test_permuted_and_repeated_rows(self, law: Law, seed: int) -> None:
        """Permuting rows changes nothing; repeating each doubles the objective and changes nothing else."""
        table = synthetic_runs(law, seed=seed, noise=3e-3)
        solution = solve(law, table)
        order = np.random.default_rng(seed).permutation(len(table[law.target]))
        permuted = solve(law, {name: column[order] for name, column in table.items()})
        assert permuted.objective == pytest.approx(solution.objective, rel=1e-6)
        np.testing.assert_allclose(permuted.predict(table), solution.predict(table), rtol=1e-4)
        doubled = solve(law, table, weights=np.full(len(table[law.target]), 2.0))
        assert doubled.objective == pytest.approx(2 * solution.objective, rel=1e-6)
        np.testing.assert_allclose(doubled.predict(table), solution.predict(table), rtol=1e-4)

    def test_weights_are_repeated_rows(self, law: Law) -> None:
        table = synthetic_runs(law, noise=3e-3)
        solution = solve(law, table)
        weights = bootstrap.resample_weights(len(table[law.target]), 20, seed=3)
        samples = refit_weighted(solution, table, weights)
        repeated = {name: np.repeat(column, weights[0].astype(int)) for name, column in table.items()}
        repeated_fit = solve(law, repeated)
        values = {name: float(value[0]) for name, value in samples.items()}
        assert objective_of(law, values, repeated) == pytest.approx(repeated_fit.objective, rel=1e-3)

    def test_units_change_coefficients_alone(self, law: Law) -> None:
        """N → cN gives A → A c^alpha and the same objective, for every column that centers a parameter alone."""
        free = [c for c in {c.partition("/")[0] for p in law.parameters for _, c in p.center} if c in law.inputs]
        if not free or law.name in ("data-constrained", "routed", "bleu", "overtraining", "repeated-pool"):
            pytest.skip("the law's inputs have units of their own")
        table = synthetic_runs(law, noise=3e-3)
        solution = solve(law, table)
        for column in free:
            rescaled_fit = solve(law, rescale(table, column, 2.5))
            assert rescaled_fit.objective == pytest.approx(solution.objective, rel=1e-5)
            for parameter in law.parameters:
                if parameter.name in law.exponents:
                    assert rescaled_fit.values[parameter.name] == pytest.approx(
                        solution.values[parameter.name], rel=1e-2, abs=1e-4
                    )


def test_chinchillas_units() -> None:
    table = synthetic_runs(LAWS["chinchilla"], noise=3e-3)
    solution = solve(LAWS["chinchilla"], table)
    rescaled_fit = solve(LAWS["chinchilla"], rescale(table, "N", 3.0))
    assert rescaled_fit.values["A"] == pytest.approx(solution.values["A"] * 3.0 ** solution.values["alpha"], rel=1e-4)
    assert rescaled_fit.values["B"] == pytest.approx(solution.values["B"], rel=1e-4)
