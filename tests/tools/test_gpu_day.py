"""The script for the day a GPU is there: time limits, results after a kill, the page; and a dry run of all of it."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "tools" / "gpu_day.sh"


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package `gpu_day`, with its modules loaded."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import gpu_day.jobs
    import gpu_day.packages
    import gpu_day.page
    import gpu_day.results
    import gpu_day.runner

    return gpu_day


def script(*options: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), *map(str, options)]
    given = os.environ | {"PYTHON": sys.executable} | environment
    return subprocess.run(command, env=given, capture_output=True, text=True)


# ---- results ----


def test_results_are_whole_lines_after_a_kill(day: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results = day.results.Results(path)
    results.add({"job": "a", "began": 1})
    results.add({"job": "a", "value": 1})
    with path.open("a") as file:
        file.write('{"job": "a", "val')
    again = day.results.Results(path)
    again.add({"job": "a", "value": 2})
    assert [line.get("value") for line in map(json.loads, path.read_text().splitlines())] == [None, 1, 2]
    assert again.of("a") == [{"job": "a", "value": 1}, {"job": "a", "value": 2}]


def test_the_last_attempt_at_a_job_counts(day: ModuleType, tmp_path: Path) -> None:
    results = day.results.Results(tmp_path / "results.jsonl")
    for value, outcome in ((1, "timed out"), (2, "passed")):
        results.add({"job": "a", "began": value})
        results.add({"job": "a", "value": value})
        assert not results.passed("a")
        results.add({"job": "a", "outcome": outcome})
    assert results.passed("a")
    assert results.rows(["a"]) == [{"job": "a", "value": 2}]


# ---- jobs ----


def run(day: ModuleType, folder: Path, code: str, seconds: float = 60) -> tuple[Any, list[dict[str, Any]]]:
    results = day.results.Results(folder / "results.jsonl")
    job = day.jobs.Job("a", "device", 60, ("-c", code))
    end = day.runner.run_job(job, results, seconds, folder / "a.log", {"FROM": "all"})
    return end, results.rows(["a"])


def test_a_job_gives_its_results_and_keeps_the_rest_in_its_log(day: ModuleType, tmp_path: Path) -> None:
    code = """
import json, os, sys
print("hello")
print(json.dumps({"value": os.environ["FROM"]}))
sys.stderr.write("!\\n")  # at once, where print writes the end of a line by itself
"""
    end, rows = run(day, tmp_path, code)
    assert end["outcome"] == "passed"
    assert rows == [{"job": "a", "value": "all"}]
    assert sorted((tmp_path / "a.log").read_text().split()) == ["!", "hello"]


def test_a_job_that_fails_says_why(day: ModuleType, tmp_path: Path) -> None:
    end, rows = run(day, tmp_path, "print('{\"value\": 1}', flush=True); raise ValueError('no such device')")
    assert end["outcome"] == "failed"
    assert end["reason"] == "exit status 1: ValueError: no such device"
    assert rows == [{"job": "a", "value": 1}]


def test_a_job_that_takes_too_long_is_ended_with_what_it_started(day: ModuleType, tmp_path: Path) -> None:
    child = "import time; time.sleep(100)"
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]); "
        "print('{\"child\": %d}' % child.pid, flush=True); time.sleep(100)"
    )
    day.runner.GRACE_SECONDS = 0.5
    end, rows = run(day, tmp_path, code, seconds=3)
    assert end["outcome"] == "timed out"
    assert end["reason"] == "not finished after 3 s"
    assert end["seconds"] < 60
    assert is_dead(rows[0]["child"])


def is_dead(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends within some seconds; one that nobody waits for counts as ended."""
    for _ in range(round(seconds / 0.05)):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"value": 1}', {"value": 1}),
        ("{not JSON", None),
        ("tests/a.py::T::test_x[Shape(1, 2)] PASSED   [ 5%]", None),
        ("tests/a.py::T::test_x[shape0] PASSED   [ 5%]", {"test": "tests/a.py::T::test_x[shape0]", "result": "passed"}),
        ("[gw1] [  7%] FAILED tests/a.py::T::test_x ", {"test": "tests/a.py::T::test_x", "result": "failed"}),
        (
            "FAILED tests/a.py::test_x - AssertionError: off",
            {"test": "tests/a.py::test_x", "message": "AssertionError: off"},
        ),
        ("SKIPPED [1] tests/a.py:3: no GPU", None),
        ("1 passed in 2 s", None),
    ],
)
def test_results_are_found_in_what_a_job_prints(day: ModuleType, line: str, expected: Any) -> None:
    assert day.runner.parse(line) == expected


def test_a_days_jobs_have_the_options_that_their_tools_know(day: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the day is parsed by its tool; nothing runs."""
    import bench_attention
    import bench_train
    import kill_and_resume
    import measure_device
    from pathways_lite.recipe import load_recipe

    class Parsed(Exception):
        pass

    original = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *args: Any) -> Any:
        raise Parsed(original(self, *args))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    mains = {module.__name__: module.main for module in (bench_attention, bench_train, kill_and_resume, measure_device)}
    checked = set()
    for job in day.jobs.gpu_jobs(Path("out"), workers=True):
        assert job.part in day.jobs.PARTS
        if job.command[0] == "-m":
            continue
        tool = Path(job.command[0])
        assert (ROOT / tool).exists()
        monkeypatch.setattr(sys, "argv", list(job.command))
        with pytest.raises(Parsed) as parsed:
            mains[tool.stem]()
        if tool.stem == "kill_and_resume":
            given = parsed.value.args[0]
            load_recipe(str(ROOT / given.recipe), given.overrides)
        checked.add(tool.stem)
    assert checked == mains.keys()


def test_the_limits_of_the_days_first_parts_leave_time_for_each(day: ModuleType) -> None:
    """The jobs up to the first of every part fit into 12 minutes even if each of them takes all of its time."""
    seconds, seen = 0, set()
    for job in day.jobs.gpu_jobs(Path("out"), workers=True):
        seconds += job.seconds
        seen.add(job.part)
        if seen == day.jobs.PARTS.keys() and job.name == "demo":
            break
    assert seconds <= 12 * 60


# ---- packages ----


def test_one_sentence_says_what_is_missing_and_how_it_gets_here(
    day: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = day.packages
    gone = {"grain", "array-record", "tokamax"}
    monkeypatch.setattr(packages, "is_installed", lambda name: name not in gone)
    demo, peers = packages.missing_packages(packages.EVERYTHING), packages.missing_packages(packages.TOKAMAX)
    assert [name.partition("==")[0] for name in demo] == ["array-record", "grain"]
    assert peers == ["tokamax==0.0.17"]
    assert packages.missing_packages(packages.TRAIN_STEP) == []
    text = packages.sentence({"demo": demo, "tokamax": peers, "train": []})
    assert "demo needs array-record, grain; tokamax needs tokamax;" in text
    assert f"-d wheels {' '.join([*demo, *peers])}`" in text
    assert packages.sentence({"demo": []}) is None


def test_a_checkout_is_known_by_name_where_it_is_not_installed(
    day: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    monkeypatch.setattr(day.packages, "is_installed", lambda name: False)
    day.packages.describe_checkout(tmp_path)
    (found,) = importlib.metadata.distributions(path=[str(tmp_path)])
    assert (found.name, found.version) == ("pathways-lite", importlib.metadata.version("pathways-lite"))


# ---- the script ----


def test_without_cuda_it_says_what_is_missing(tmp_path: Path) -> None:
    done = script("--out", tmp_path / "day")
    assert done.returncode == 2
    assert "JAX for CUDA is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_it_is_told_wrong_is_said_in_a_sentence(tmp_path: Path) -> None:
    for options, message in (
        (("--parts", "test"), "invalid choice: 'test'"),
        (("--minutes", "0"), "--minutes 0: give it more than 0"),
        (("--wheels", tmp_path / "none"), "is not a folder"),
        (("--dry-run", "--wheels", tmp_path), "has no wheels"),
    ):
        done = script("--out", tmp_path / "day", *options)
        assert done.returncode != 0
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_dry_run_goes_through_every_part(tmp_path: Path) -> None:
    out = tmp_path / "day"
    done = script("--dry-run", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr + "".join(log.read_text() for log in out.glob("*.log"))
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {line["outcome"] for line in lines if "outcome" in line} == {"passed"}
    assert all(line["result"] == "passed" for line in lines if "result" in line)
    ours = [line for line in lines if line.get("implementation") == "pallas_gpu"]
    assert all(line["equal"] and line["same_bits"] for line in ours if "check" in line)
    assert all(line["seconds"] > 0 for line in ours if "pass" in line)
    assert {line["kind"] for line in ours} == {"causal", "packed", "window"}
    (demo,) = (line for line in lines if line["job"] == "demo" and "equal" in line)
    assert demo["equal"]
    assert [kill["signal"] for kill in demo["killed"]] == ["SIGKILL"]
    page = (out / "page.md").read_text()
    for text in ("## Device", "## Tests", "## Equality", "## Train", "## Attention", "## Demo", "bit for bit"):
        assert text in page

    # Nothing that has passed is run again, and nothing of a dry run gets among measurements.
    again = script("--dry-run", "--out", out)
    assert again.returncode == 0
    assert " passed" not in again.stdout
    mixed = script("--out", out)
    assert mixed.returncode == 1
    assert "has the results of a dry run" in mixed.stderr


@pytest.mark.slow
def test_a_killed_dry_run_continues(tmp_path: Path) -> None:
    out = tmp_path / "day"
    command = [str(SCRIPT), "--dry-run", "--out", str(out), "--parts", "device", "equality"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHON": sys.executable}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "equality (" in line:  # device has passed
            break
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "not finished" in (out / "page.md").read_text()
    done = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
    assert done.returncode == 0
    assert "equality passed" in done.stdout
    assert "device passed" not in done.stdout


# ---- the page ----


def test_times_of_the_backward_pass_are_what_is_left(day: ModuleType) -> None:
    forward = {"implementation": "a", "head_dim": 64, "T": 4096, "kind": "causal", "pass": "forward"}
    both = forward | {"pass": "forward+backward"}
    # 400 TFLOP/s of a peak of 1000 forward; 14/4 of its FLOPs in 3 times its time
    rows = [
        forward | {"seconds": 1e-3, "tflops_per_s": 400, "share_of_peak": 0.4},
        both | {"seconds": 3e-3, "tflops_per_s": 400 * 3.5 / 3, "share_of_peak": 0.4 * 3.5 / 3},
        forward | {"implementation": "b", "seconds": 2e-3, "tflops_per_s": 200, "share_of_peak": 0.2},
        both
        | {
            "implementation": "b",
            "error": "'b' does not support this call: why. These do: a.",
        },
    ]
    text = day.page.attention_section(rows)
    assert "| 64 | 4,096 | causal | forward | **1 (40%)** | 2 (20%) |" in text
    assert "| 64 | 4,096 | causal | backward | **2 (50%)** | — |" in text
    assert "- b (causal; D 64): why." in text


def test_what_is_not_equal_stands_out(day: ModuleType) -> None:
    row = {"implementation": "a", "dtype": "float32", "head_dim": 64, "kind": "causal"}
    good = {"errors": {"output": 1e-5, "d_q": 2e-5}, "equal": True, "same_bits": True}
    bad = {"kind": "window", "errors": {"output": 1e-5, "d_q": None}, "equal": False, "same_bits": False}
    text = day.page.equality_section([row | good, row | bad])
    assert "| a | float32 | 64 | 2.0e-05 | **not finite** | **no** |" in text


def test_a_run_that_was_not_reproduced_is_reported(day: ModuleType) -> None:
    row = {"equal": False, "log_equal": False, "arrays_equal": False, "steps": 10, "loss": 2.0, "tokens_per_s": 5.0}
    row |= {"xla_flags": "--a=b", "first_difference": 7, "largest_loss_difference": 0.25, "seconds": 3.0}
    text = day.page.demo_section([row | {"killed": [{"signal": "SIGKILL", "after_checkpoint": 4, "status": -9}]}])
    assert "With `--a=b`, the run that got SIGKILL after step 4" in text
    assert "**not the undisturbed one**" in text
    assert "from step 7; losses differ by up to 0.25" in text


# ---- other packages' attention ----


def test_masks_of_tokamax_are_the_spans(day: ModuleType) -> None:
    import attention_peers
    import bench_attention
    from pathways_kernels.attention.spans import dense_mask

    if reason := attention_peers.tokamax_is_missing():
        pytest.skip(f"{reason} tools/gpu_day.sh says how it gets here.")
    for spans in bench_attention.device_kinds(argparse.Namespace(kinds=None), 64, 2).values():
        mask = attention_peers._tokamax_mask(spans, 64).as_array(64, 64)
        expected = dense_mask(spans, 64)
        if mask is None:
            assert expected.all()
        else:
            found = np.asarray(mask)[..., 0, :, :] if mask.ndim == 4 else mask
            np.testing.assert_array_equal(np.broadcast_to(found, expected.shape), expected)
