"""Growth on eight simulated devices is growth on one, and no device holds more than its part and a little."""

import json

import pytest

from helpers.eight_devices import run_on_eight_devices


def holds(*cases: str) -> None:
    for name, found in json.loads(run_on_eight_devices("grow", *cases)).items():
        assert found["off"] < 1e-5, name
        assert found["placed"], name
        assert found["share"] <= 0.25, name


def test_growth_is_spread() -> None:
    holds("stack")


@pytest.mark.slow
def test_so_is_every_operator() -> None:
    holds("direct", "zero", "random", "learned", "vocabulary")
