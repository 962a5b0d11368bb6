"""What must hold of every law's fit, whatever the law."""

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
        found = solve(law, table)
        np.testing.assert_allclose(found.predict(table), table[law.target], rtol=1e-6)
        for name, value in published_values(law).items():
            assert found.values[name] == pytest.approx(value, rel=1e-6), name

    @settings(max_examples=3, derandomize=True)
    @given(seed=st.integers(0, 100))
    def test_what_may_be_done_to_rows(self, law: Law, seed: int) -> None:
        """Permuting them moves nothing; giving each twice doubles the objective and moves nothing."""
        table = synthetic_runs(law, seed=seed, noise=3e-3)
        found = solve(law, table)
        order = np.random.default_rng(seed).permutation(len(table[law.target]))
        permuted = solve(law, {name: column[order] for name, column in table.items()})
        assert permuted.objective == pytest.approx(found.objective, rel=1e-6)
        np.testing.assert_allclose(permuted.predict(table), found.predict(table), rtol=1e-4)
        doubled = solve(law, table, weights=np.full(len(table[law.target]), 2.0))
        assert doubled.objective == pytest.approx(2 * found.objective, rel=1e-6)
        np.testing.assert_allclose(doubled.predict(table), found.predict(table), rtol=1e-4)

    def test_weights_are_repeated_rows(self, law: Law) -> None:
        table = synthetic_runs(law, noise=3e-3)
        found = solve(law, table)
        weights = bootstrap.resample_weights(len(table[law.target]), 20, seed=3)
        samples = refit_weighted(found, table, weights)
        repeated = {name: np.repeat(column, weights[0].astype(int)) for name, column in table.items()}
        again = solve(law, repeated)
        values = {name: float(value[0]) for name, value in samples.items()}
        assert objective_of(law, values, repeated) == pytest.approx(again.objective, rel=1e-3)

    def test_units_change_coefficients_alone(self, law: Law) -> None:
        """N → cN gives A → A c^alpha and the same objective, for every column that is the only center of a parameter."""
        free = [c for c in {c.partition("/")[0] for p in law.parameters for _, c in p.center} if c in law.inputs]
        if not free or law.name in ("data-constrained", "routed", "bleu", "overtraining", "repeated-pool"):
            pytest.skip("the law's inputs have units of their own")
        table = synthetic_runs(law, noise=3e-3)
        found = solve(law, table)
        for column in free:
            moved = solve(law, rescale(table, column, 2.5))
            assert moved.objective == pytest.approx(found.objective, rel=1e-5)
            for parameter in law.parameters:
                if parameter.name in law.exponents:
                    assert moved.values[parameter.name] == pytest.approx(
                        found.values[parameter.name], rel=1e-2, abs=1e-4
                    )


def test_chinchillas_units() -> None:
    table = synthetic_runs(LAWS["chinchilla"], noise=3e-3)
    found = solve(LAWS["chinchilla"], table)
    moved = solve(LAWS["chinchilla"], rescale(table, "N", 3.0))
    assert moved.values["A"] == pytest.approx(found.values["A"] * 3.0 ** found.values["alpha"], rel=1e-4)
    assert moved.values["B"] == pytest.approx(found.values["B"], rel=1e-4)
