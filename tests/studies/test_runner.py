"""The runner's order, locks and endings, with training replaced by scripts; real training is in test_study_runs."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pathways_lite.errors import UserError
from pathways_lite.run_directory import RunDirectory
from pathways_lite.run_lock import RunLock
from pathways_lite.studies.executor import split_cores
from pathways_lite.studies.progress import StudyProgress
from pathways_lite.studies.runner import Outcome, Runner, report_failures
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import Study, build_nodes


@dataclass
class FakeJob:
    ends: Callable[[], int | None]
    stopped: bool = False

    def poll(self) -> int | None:
        return 143 if self.stopped else self.ends()

    def stop(self) -> None:
        self.stopped = True


@dataclass
class FakeExecutor:
    """`status` of a node that is trained; what has been started is in `started`."""

    status: Callable[[RunDirectory], int | None] = lambda run: 0
    slots: int = 1
    started: list[str] = field(default_factory=list)

    def start(self, run: RunDirectory, output: Path) -> FakeJob:
        self.started.append(run.path.name)
        output.write_text(f"training {run.path.name}\nerror: it has \x1b[1mfailed\n")

        def ends() -> int | None:
            status = self.status(run)
            if status == 0:
                name = run.recipe().stages[-1].name
                run.stage(name).path.mkdir()
                run.stage(name).write_summary({"identity": run.path.name})
            return status

        return FakeJob(ends)


@pytest.fixture
def store(study: Study, tmp_path: Path) -> StudyStore:
    """A store in which nothing is trained."""
    return StudyStore(tmp_path, build_nodes(study.recipes))


def run(store: StudyStore, executor: FakeExecutor) -> Outcome:
    return Runner(store, executor, StudyProgress(dict.fromkeys(store.nodes, 1), Console(file=StringIO()))).run()


def test_parents_come_first_and_what_is_done_is_not_done_again(store: StudyStore) -> None:
    executor = FakeExecutor(slots=2)
    assert run(store, executor).trained == list(store.nodes)
    assert executor.started == list(store.nodes)
    again = FakeExecutor()
    assert run(store, again).exit_status == 0
    assert again.started == []


def test_a_finished_node_is_left_to_end_by_itself(store: StudyStore) -> None:
    """Its summary is there before its process has drawn the pictures and ended."""
    trunk, *_ = store.nodes
    looks = iter(range(10))

    def status(run: RunDirectory) -> int | None:
        if run.path.name != trunk:
            return 0
        if (look := next(looks)) == 0:
            _finish(store, trunk)
        return None if look < 3 else -15

    outcome = run(store, FakeExecutor(status))
    assert next(looks) == 4, "it was waited for"
    assert outcome.trained == list(store.nodes)


def test_a_failure_stops_only_what_starts_from_it(store: StudyStore) -> None:
    trunk, slow, fast = store.nodes
    outcome = run(store, FakeExecutor(lambda run: 3 if run.path.name == slow else 0))
    assert (outcome.trained, list(outcome.failed), outcome.held_up) == ([trunk, fast], [slow], [])
    assert outcome.exit_status == 1
    assert store.states()[slow] == "failed"
    said: list[str] = []
    report_failures(store, outcome, said.append)
    assert f"training {slow}" in said[0], "the end of its log"
    assert run(store, FakeExecutor()).trained == [slow], "it is tried again"
    assert set(store.states().values()) == {"done"}


def test_what_starts_from_a_failed_node_is_held_up(store: StudyStore) -> None:
    trunk, slow, fast = store.nodes
    outcome = run(store, FakeExecutor(lambda run: -9))
    assert list(outcome.failed) == [trunk]
    assert outcome.held_up == [slow, fast]
    assert outcome.failed[trunk].reason == "killed by signal 9"
    assert store.states() == {trunk: "failed", slow: "held up", fast: "held up"}


def test_two_runners_train_every_node_once(store: StudyStore) -> None:
    """The second one waits for what the first one holds."""
    trunk, *_ = store.nodes
    with RunLock(store.claim_directory(trunk)):
        threading.Timer(0.5, lambda: _finish(store, trunk)).start()
        executor = FakeExecutor()
        outcome = run(store, executor)
    assert trunk not in executor.started
    assert set(outcome.trained) == set(store.nodes) - {trunk}


def test_a_process_left_behind_by_a_killed_runner_is_waited_for(store: StudyStore) -> None:
    trunk, *_ = store.nodes
    with RunLock(store.run_directory(trunk).path):
        threading.Timer(0.5, lambda: _finish(store, trunk)).start()
        executor = FakeExecutor()
        run(store, executor)
    assert trunk not in executor.started


def _finish(store: StudyStore, identity: str) -> None:
    run = store.prepare(identity)
    stage = run.stage(run.recipe().stages[-1].name)
    stage.path.mkdir()
    stage.write_summary({"identity": "any"})


def test_a_signal_stops_what_runs_and_starts_no_more(store: StudyStore) -> None:
    executor = FakeExecutor(lambda run: None)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), 15)).start()
    begin = time.monotonic()
    outcome = run(store, executor)
    assert time.monotonic() - begin < 30
    assert outcome.exit_status == 128 + 15
    assert executor.started == list(store.nodes)[:1]
    assert store.failure(executor.started[0]) is None


def test_cores_are_shared_evenly() -> None:
    assert split_cores([0, 1, 2, 3, 4], 2) == [[0, 1], [2, 3, 4]]
    with pytest.raises(UserError, match="may use 2 cores"):
        split_cores([4, 5], 3)
