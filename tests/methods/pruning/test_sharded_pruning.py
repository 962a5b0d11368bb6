"""Pruning on eight simulated devices is pruning on one, to the bit, and nothing is brought together but counts."""

import json

import pytest

from helpers.eight_devices import run_on_eight_devices


def holds(*cases: str) -> None:
    for name, found in json.loads(run_on_eight_devices("prune", *cases)).items():
        assert found["equal"], name
        assert found["active"][0] == found["active"][1], name
        assert found["share"] == 1 / 8, name
        # Counts and sums of units; the smallest array that is pruned has 2048 weights.
        assert found["largest_collective"] <= 2 * 64, name


def test_one_threshold_for_all_is_found_where_the_weights_lie() -> None:
    holds("global")


@pytest.mark.slow
def test_so_are_all_others() -> None:
    holds("tensor", "2:4", "heads", "channels", "random", "regrowth")
