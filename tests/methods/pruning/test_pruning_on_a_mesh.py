"""Pruning on eight simulated devices is pruning on one, to the bit, and nothing is brought together but counts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("pruning_on_eight_devices.py")


def holds(*cases: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *cases], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, found in json.loads(done.stdout.splitlines()[-1]).items():
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
