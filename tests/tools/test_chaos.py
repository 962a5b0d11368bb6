"""Injected faults, one round of each kind: runs, stores and studies come out as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHAOS = Path(__file__).parent.parent.parent / "tools/chaos.py"
AREAS = [
    "kills", "signals", "disk", "locks", "numbers", "checkpoints", "corpora", "processes", "studies", "builds",
]  # fmt: skip


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    done = subprocess.run([sys.executable, CHAOS, "--rounds", "1", "--seed", "1"], stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize("area", AREAS)
def test_nothing_goes_wrong(report: dict[str, Any], area: str) -> None:
    assert report["areas"][area]["tried"] > 0
    assert report["areas"][area]["wrong"] == []


def test_an_unknown_area_is_refused_with_the_known_ones() -> None:
    done = subprocess.run([sys.executable, CHAOS, "--areas", "fire"], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"no areas: fire; there are {', '.join(AREAS)}" in " ".join(done.stderr.split())
