"""The lower bounds of pyproject.toml are true: with the oldest of all dependencies the demo trains, and alike.

Beside `make package`, as it depends on what newer packages say of older ones.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from helpers.built_package import NEEDS_UV, PACKAGE, make_environment, run_installed, uv

pytestmark = [pytest.mark.slow, NEEDS_UV]

FAST = ["stages.base.budget=2 steps", "stages.base.evaluation.tokens=2000", "--no-samples", "--no-page"]


def test_the_demo_trains_with_the_oldest_dependencies(tmp_path: Path) -> None:
    uv("build", "--wheel", "--out-dir", tmp_path / "index", "--python", sys.executable)
    python = make_environment(tmp_path / "oldest")
    uv("pip", "install", "--python", python, "--resolution", "lowest-direct", "-r", "pyproject.toml")
    uv("pip", "install", "--python", python, "--no-deps", "--find-links", tmp_path / "index", PACKAGE)
    versions = run_installed(python.with_name("pathways-lite"), "--version", cwd=tmp_path).stdout
    assert "jax 0.11.0, " in versions, versions
    losses = {}
    for interpreter in (python, Path(sys.executable)):
        words = ["-m", "pathways_lite", "train", "demo", "--out", f"runs/{interpreter.parents[1].name}", *FAST]
        done = run_installed(interpreter, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        log = (tmp_path / words[5] / "base" / "log.jsonl").read_text().splitlines()
        losses[interpreter] = [row["loss"] for row in map(json.loads, log) if "loss" in row]
    shutil.rmtree(tmp_path / "oldest")  # a gigabyte, which pytest would keep
    old, new = losses.values()
    assert old == pytest.approx(new, rel=1e-4)
