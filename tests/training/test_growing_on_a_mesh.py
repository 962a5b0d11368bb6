"""Growth on eight simulated devices is growth on one, and no device holds more than its part and a little."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("growing_on_eight_devices.py")


def holds(*cases: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *cases], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, found in json.loads(done.stdout.splitlines()[-1]).items():
        assert found["off"] < 1e-5, name
        assert found["placed"], name
        assert found["share"] <= 0.25, name


def test_growth_is_spread() -> None:
    holds("stack")


@pytest.mark.slow
def test_so_is_every_operator() -> None:
    holds("direct", "zero", "random", "learned")
