"""The example study from plan to report by real processes, with kills in the middle."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pathways_lite.run_lock import find_holder
from pathways_lite.studies.plan import resolve_study, study_store
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import load_study
from pathways_lite.tracking.log import read_log

EXAMPLE = Path(__file__).parent.parent.parent / "configs" / "studies" / "palm_against_llama.py"
JOBS = min(2, len(os.sched_getaffinity(0)))


def study_command(command: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "pathways_lite", "study", command, *map(str, arguments)]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = study_command("run", *arguments, "--jobs", JOBS)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until_training(store: StudyStore, identity: str, steps: int = 1) -> None:
    """Until the node has logged so many steps."""
    deadline = time.monotonic() + 300
    while not any(row["step"] >= steps for row in read_log(store.stage_directory(identity).path / "log.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def kill_trainer(store: StudyStore, identity: str, number: int) -> None:
    owner = find_holder(store.run_directory(identity).path)
    assert owner is not None
    os.kill(owner.pid, number)


@pytest.fixture(scope="module")
def python_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = tmp_path_factory.mktemp("corpora") / "python"
    options = ["--tokenizer", "sentencepiece:4096", "--held-out", "0.03"]
    command = [sys.executable, "-m", "pathways_lite", "data", "build", corpus, "python:", *options]
    subprocess.run(command, check=True, capture_output=True)
    return corpus


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_example_study_survives_kills_and_reports(python_corpus: Path, tmp_path: Path) -> None:
    options = (EXAMPLE, f"stages.base.data.corpus={python_corpus}", "--out", tmp_path / "out")
    store = study_store(resolve_study(load_study(EXAMPLE, [options[1]])), tmp_path / "out")
    first, *_ = store.nodes
    # The runner is killed; what it trained saves and ends.
    runner = start(*options)
    wait_until_training(store, first, 60)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    # A node is killed: it is told, the others are trained.
    runner = start(*options)
    wait_until_training(store, first, 70)
    kill_trainer(store, first, signal.SIGKILL)
    said = runner.communicate(timeout=1500)[0]
    assert runner.returncode == 1, said
    assert "palm/0 base: failed, killed by signal 9" in said
    states = store.states()
    assert states.pop(first) == "failed"
    assert set(states.values()) == {"done"}
    # The same command trains what is left, from where it was.
    runner = start(*options)
    said = runner.communicate(timeout=600)[0]
    assert runner.returncode == 0, said
    events = [row for row in read_log(store.stage_directory(first).path / "timings.jsonl") if row["kind"] == "event"]
    assert {row["event"] for row in events} >= {"resume"}
    subprocess.run(study_command("report", *options), check=True, capture_output=True)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Finished." in page
    assert "over paired seeds" in page


@pytest.mark.slow
def test_two_runners_and_a_stop_train_every_node_once(study_file: Path, tmp_path: Path) -> None:
    """Two at once share the work, and one that is stopped leaves it to the other."""
    store = study_store(resolve_study(load_study(study_file)), tmp_path)
    one, other = (start(study_file, "--out", tmp_path) for _ in range(2))
    assert one.stdout is not None
    while not any(word in (line := one.stdout.readline()) for word in ("started", "another process")):
        assert line, "it has ended"
    one.send_signal(signal.SIGTERM)
    said = [runner.communicate(timeout=300)[0] for runner in (one, other)]
    assert (one.returncode, other.returncode) == (128 + signal.SIGTERM, 0), said
    assert set(store.states().values()) == {"done"}
    for identity in store.nodes:
        steps = [
            row["step"]
            for row in read_log(store.stage_directory(identity).path / "log.jsonl")
            if row["kind"] == "train"
        ]
        assert steps == sorted(set(steps)), "no step was trained by two at once"
        with contextlib.suppress(FileNotFoundError):
            assert "Traceback" not in store.output_path(identity).read_text()
