"""The benchmarks run and print one JSON line with what their help promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent.parent / "tools"


@pytest.mark.parametrize("tool", sorted(TOOLS.glob("*.py")), ids=lambda path: path.stem)
def test_tools_have_help(tool: Path) -> None:
    assert (
        "usage" in subprocess.run([sys.executable, tool, "--help"], capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.slow
def test_bench_objectives_prints_one_json_line() -> None:
    command = [sys.executable, TOOLS / "bench_objectives.py", "--seconds", "0.1"]
    (line,) = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    row = json.loads(line)
    for kind in ("causal", "ul2r", "ul2", "fill_in_the_middle", "codegen2"):
        assert row[kind]["unused"] < 0.005
        assert row[kind]["tokens_per_s"] > 1e5


@pytest.mark.slow
def test_bench_train_prints_one_json_line() -> None:
    command = [sys.executable, TOOLS / "bench_train.py", "--shape", "S", "--steps", "1"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 1
    row = json.loads(lines[0])
    assert {"tokens_per_s", "first_step_s", "peak_rss_mb", "model_flops_per_s", "share_of_peak"} <= row.keys()
    assert 0 < row["share_of_peak"] < 1
