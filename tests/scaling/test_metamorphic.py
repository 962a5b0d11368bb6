"""What must hold of every law's fit, whatever the law."""

import metamorphic as m
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.scaling import bootstrap
from pathways_lite.scaling.law import Law, double_precision
from pathways_lite.scaling.laws.registry import LAWS
from pathways_lite.scaling.solver import objective_of, resolve_weighted

# One law of each kind in the fast suite, all of them in the slow one: each is a program to compile.
FAST = ("chinchilla",)
EVERY = [pytest.param(law, id=law.name, marks=() if law.name in FAST else pytest.mark.slow) for law in m.PLAIN]


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_working_coordinates_lose_nothing(law: Law) -> None:
    """From natural values to centred logarithms and back."""
    if law in m.PLAIN:
        columns = m.made_up(law, rows=8)
    else:
        columns = {name: np.linspace(1, 2, 8) for name in law.inputs}
    values = m.truth(law)
    with double_precision():
        centres = law.centres(columns)
        back = law.from_working(law.to_working(values, centres), centres)
    for name, value in values.items():
        assert float(back[name]) == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("law", m.PLAIN, ids=lambda law: law.name)
def test_its_own_data_fit_perfectly(law: Law) -> None:
    table = m.made_up(law)
    assert objective_of(law, m.truth(law), table) < 1e-20
    assert np.isfinite(table[law.target]).all()


@pytest.mark.parametrize("law", EVERY)
class TestEveryLaw:
    def test_noise_free_data_are_recovered(self, law: Law) -> None:
        table = m.made_up(law)
        found = m.fit(law, table)
        np.testing.assert_allclose(found.predict(table), table[law.target], rtol=1e-6)
        for name, value in m.truth(law).items():
            assert found.values[name] == pytest.approx(value, rel=1e-6), name

    @settings(max_examples=3, derandomize=True)
    @given(seed=st.integers(0, 100))
    def test_what_may_be_done_to_rows(self, law: Law, seed: int) -> None:
        """Permuting them moves nothing; giving each twice doubles the objective and moves nothing."""
        table = m.made_up(law, seed=seed, noise=3e-3)
        found = m.fit(law, table)
        order = np.random.default_rng(seed).permutation(len(table[law.target]))
        permuted = m.fit(law, {name: column[order] for name, column in table.items()})
        assert permuted.objective == pytest.approx(found.objective, rel=1e-6)
        np.testing.assert_allclose(permuted.predict(table), found.predict(table), rtol=1e-4)
        doubled = m.fit(law, table, weights=np.full(len(table[law.target]), 2.0))
        assert doubled.objective == pytest.approx(2 * found.objective, rel=1e-6)
        np.testing.assert_allclose(doubled.predict(table), found.predict(table), rtol=1e-4)

    def test_weights_are_repeated_rows(self, law: Law) -> None:
        table = m.made_up(law, noise=3e-3)
        found = m.fit(law, table)
        weights = bootstrap.resample(len(table[law.target]), 20, seed=3)
        samples = resolve_weighted(found, table, weights)
        repeated = {name: np.repeat(column, weights[0].astype(int)) for name, column in table.items()}
        again = m.fit(law, repeated)
        values = {name: float(value[0]) for name, value in samples.items()}
        assert objective_of(law, values, repeated) == pytest.approx(again.objective, rel=1e-3)

    def test_units_change_coefficients_alone(self, law: Law) -> None:
        """N → cN gives A → A c^alpha and the same objective, for every column that is centred on alone."""
        free = [c for c in {c.partition("/")[0] for p in law.parameters for _, c in p.centre} if c in law.inputs]
        if not free or law.name in ("data-constrained", "routed", "bleu", "overtraining", "repeated-pool"):
            pytest.skip("the law's inputs have units of their own")
        table = m.made_up(law, noise=3e-3)
        found = m.fit(law, table)
        for column in free:
            moved = m.fit(law, m.scaled(law, column, 2.5, table))
            assert moved.objective == pytest.approx(found.objective, rel=1e-5)
            for parameter in law.parameters:
                if parameter.name in law.exponents:
                    assert moved.values[parameter.name] == pytest.approx(
                        found.values[parameter.name], rel=1e-2, abs=1e-4
                    )


def test_chinchillas_units() -> None:
    table = m.made_up(LAWS["chinchilla"], noise=3e-3)
    found = m.fit(LAWS["chinchilla"], table)
    moved = m.fit(LAWS["chinchilla"], m.scaled(LAWS["chinchilla"], "N", 3.0, table))
    assert moved.values["A"] == pytest.approx(found.values["A"] * 3.0 ** found.values["alpha"], rel=1e-4)
    assert moved.values["B"] == pytest.approx(found.values["B"], rel=1e-4)
