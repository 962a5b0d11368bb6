"""A study on a real Slurm, of this one machine."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pathways_lite.errors import UserError

pytest.importorskip("submitit", reason="the extra `slurm` is not installed")

from helpers.local_slurm import missing_requirement, run_slurm
from pathways_lite.studies.plan import study_store
from pathways_lite.studies.slurm import SlurmExecutor
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import Study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if (reason := missing_requirement()) is not None:
        pytest.skip(reason)
    # A short path: a socket's name has at most 107 characters.
    with run_slurm(tmp_path_factory.mktemp("slurm"), (36817, 36818)) as environment:
        yield environment


def start(study_file: Path, out: Path, slurm: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pathways_lite", "study", "run", study_file, "--out", out, "--jobs", "2"]
    command += ["--executor", "slurm", "--slurm", "timeout_min=30"]
    return subprocess.Popen(
        command, env=os.environ | slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def jobs(slurm: dict[str, str]) -> list[str]:
    command = ["squeue", "--noheader", "--format=%A"]
    return subprocess.run(command, env=os.environ | slurm, capture_output=True, text=True).stdout.split()


def wait_for_log(store: StudyStore, identity: str) -> None:
    deadline = time.monotonic() + 300
    while not (store.stage_directory(identity).path / "log.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_study_continues_as_jobs_after_its_runner_is_killed(
    study: Study, study_file: Path, slurm: dict[str, str], tmp_path: Path
) -> None:
    store = study_store(study, tmp_path / "out")
    trunk, *_ = store.nodes
    first = start(study_file, store.path, slurm)
    while not (store.run_directory(trunk).path / "job.json").exists():
        time.sleep(0.1)
        assert first.poll() is None, first.communicate()[0]
    first.send_signal(signal.SIGKILL)
    first.wait()
    submitted = jobs(slurm)
    assert len(submitted) == 1, "the job outlives its runner"
    second = start(study_file, store.path, slurm)
    said = second.communicate(timeout=500)[0]
    assert second.returncode == 0, said
    assert set(store.states().values()) == {"done"}
    numbers = {re.sub(r"\D", "", (store.run_directory(node).path / "job.json").read_text()) for node in store.nodes}
    assert len(numbers) == 3
    assert submitted[0] in numbers, "the trunk was not submitted again"
    assert jobs(slurm) == []


def test_a_stopped_runner_stops_its_jobs_and_a_killed_job_is_reported(
    study: Study, study_file: Path, slurm: dict[str, str], tmp_path: Path
) -> None:
    store = study_store(study, tmp_path / "out")
    trunk, *_ = store.nodes
    runner = start(study_file, store.path, slurm)
    wait_for_log(store, trunk)
    runner.send_signal(signal.SIGTERM)
    said = runner.communicate(timeout=300)[0]
    assert runner.returncode == 128 + signal.SIGTERM, said
    assert store.failure(trunk) is None
    assert store.states()[trunk] in ("stopped", "done")

    runner = start(study_file, store.path, slurm)
    while not jobs(slurm):
        time.sleep(0.1)
        assert runner.poll() is None, runner.communicate()[0]
    subprocess.run(["scancel", "--full", "--signal=KILL", *jobs(slurm)], env=os.environ | slurm, check=True)
    said = runner.communicate(timeout=300)[0]
    assert runner.returncode == 1, said
    assert "killed by signal 9" in said
    assert "waits for a failed node" in said or store.stage_directory(trunk).is_finished


def test_parameters_that_slurm_has_not_are_refused(
    slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", slurm["PATH"])
    with pytest.raises(UserError, match="color"):
        SlurmExecutor(tmp_path, 1, {"color": "red"})
