"""Training by several processes, really several: the run of one, whatever happens to them."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from helpers.fork_server import ForkServer
from pathways_lite.checkpoints import CheckpointManager, fsck, read_manifest
from pathways_lite.distributed import coordination
from pathways_lite.errors import TRY_AGAIN
from pathways_lite.tracking.log import read_log

TOTAL = 12


class Processes:
    """Starts the command line in `count` processes with `devices` each."""

    def __init__(self, get_servers: Callable[[int], list[ForkServer]], recipe: Path) -> None:
        self._get_servers, self._recipe = get_servers, recipe

    def start(
        self,
        count: int,
        devices: int,
        out: Path,
        *arguments: object,
        heartbeat: int = 15,
        last: Sequence[object] = (),
    ) -> "Started":
        """`last`: arguments that only the last process gets."""
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            coordinator = f"localhost:{probe.getsockname()[1]}"
        always = ["train", self._recipe, "stages.base.batch_size=8", *arguments, "--track", "none", "--out", out]
        servers = self._get_servers(count)
        for index, server in enumerate(servers):
            flags = ["--coordinator", coordinator, "--processes", count, "--process", index] if count > 1 else []
            # JAX is imported where they start from, and reads nothing but this later.
            xla_flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
            environment = {"XLA_FLAGS": xla_flags, coordination.HEARTBEAT: str(heartbeat)}
            server.start(*always, *flags, *(last if index == count - 1 else ()), **environment)
        return Started(servers)

    def run(self, count: int, devices: int, out: Path, *arguments: object) -> None:
        """To the end."""
        started = self.start(count, devices, out, *arguments)
        assert started.wait() == [0] * count, started.outputs


class Started:
    """Processes under way."""

    def __init__(self, servers: list[ForkServer]) -> None:
        self.servers = servers

    def wait(self) -> list[int]:
        """Their exit statuses; -9 of one that was killed."""
        return [server.wait() for server in self.servers]

    @property
    def outputs(self) -> list[str]:
        return [server.output.read_text() for server in self.servers]


@pytest.fixture(scope="module")
def processes(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    started: list[ForkServer] = []

    def get_servers(count: int) -> list[ForkServer]:
        while len(started) < count:
            started.append(ForkServer(tmp_path_factory.mktemp(f"server{len(started)}")))
        return started[:count]

    yield Processes(get_servers, recipe_file)
    for server in started:
        server.close()


def losses(run: Path, steps: int = TOTAL) -> np.ndarray:
    """[steps, 2] loss and gradient norm."""
    rows = read_log(run / "base" / "log.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, steps + 1))
    return np.array([[row["loss"], row["grad_norm"]] for row in rows if row["kind"] == "train"])


def log_of(run: Path) -> bytes:
    return (run / "base" / "log.jsonl").read_bytes()


def digest(run: Path, step: int = TOTAL) -> str:
    return read_manifest(CheckpointManager(run / "base" / "checkpoints").path(step)).digest


@pytest.fixture(scope="module")
def by_two(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run of two processes with a device each."""
    run = tmp_path_factory.mktemp("runs") / "two"
    processes.run(2, 1, run)
    return run


@pytest.fixture(scope="module")
def by_one(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run of one process with one device."""
    run = tmp_path_factory.mktemp("runs") / "one"
    processes.run(1, 1, run)
    return run


def test_two_processes_train_as_one_does(by_two: Path, by_one: Path) -> None:
    np.testing.assert_allclose(losses(by_two), losses(by_one), rtol=1e-5)
    assert all(finding.ok for finding in fsck(by_two))


def test_one_killed_process_of_two_and_all_goes_on(processes: Processes, by_two: Path, tmp_path: Path) -> None:
    started = processes.start(2, 1, tmp_path / "run", "stages.base.saving.every=1")
    started.servers[0].wait_for("step 1/12")
    started.servers[1].kill(signal.SIGKILL)
    first, second = started.wait()
    assert second == -signal.SIGKILL
    # The other one ends as well: its step fails, or JAX aborts it where it waits for the dead one.
    assert first in (1, -signal.SIGABRT)
    assert any(told in started.outputs[0] for told in ("start all processes again", "another task died"))
    processes.run(2, 1, tmp_path / "run", "stages.base.saving.every=1")
    assert log_of(tmp_path / "run") == log_of(by_two)
    assert digest(tmp_path / "run") == digest(by_two)


def test_a_run_that_was_stopped_before_its_summary_gets_it(processes: Processes, by_two: Path, tmp_path: Path) -> None:
    """Nothing is left to train or to evaluate then, and only process 0 reads the log."""
    run = shutil.copytree(by_two, tmp_path / "run")
    summary = run / "base" / "summary.json"
    expected = json.loads(summary.read_text())["domains"]
    summary.unlink()
    processes.run(2, 1, run)
    assert json.loads(summary.read_text())["domains"] == expected
    assert log_of(run) == log_of(by_two)


@pytest.mark.slow
def test_a_signal_to_one_stops_all_at_one_step_and_one_goes_on(
    processes: Processes, by_one: Path, tmp_path: Path
) -> None:
    started = processes.start(2, 1, tmp_path / "run")
    started.servers[0].wait_for("step 1/12")
    started.servers[1].kill(signal.SIGTERM)
    statuses = started.wait()
    assert statuses in ([128 + signal.SIGTERM] * 2, [0, 0])  # 0: it was about to end anyway
    assert "Traceback" not in "".join(started.outputs)
    newest = CheckpointManager(tmp_path / "run/base/checkpoints").newest
    rows = read_log(tmp_path / "run/base/log.jsonl")
    assert newest == rows[-1]["step"]
    processes.run(1, 1, tmp_path / "run")
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(by_one), rtol=1e-5)


# ---- tasks beside held-out text ----

TASKS = ["stages.base.evaluation.tasks=sum:choices,sum", "stages.base.evaluation.task_items=3"]


def task_results(run: Path) -> dict[str, float]:
    """The numbers of all tasks at all evaluations."""
    rows = [row for row in read_log(run / "base" / "log.jsonl") if row["kind"] == "eval"]
    assert [row["step"] for row in rows] == [6, TOTAL]
    return {
        f"{row['step']} {task} {name}": value
        for row in rows
        for task, result in row["tasks"].items()
        for name, value in result.items()
        if not isinstance(value, str)
    }


@pytest.mark.slow
def test_tasks_have_the_results_of_one_process_and_the_same_bits_after_a_kill(
    processes: Processes, tmp_path: Path
) -> None:
    processes.run(2, 1, tmp_path / "two", *TASKS)
    processes.run(1, 1, tmp_path / "one", *TASKS)
    assert task_results(tmp_path / "two") == pytest.approx(task_results(tmp_path / "one"), rel=1e-4, nan_ok=True)
    started = processes.start(2, 1, tmp_path / "killed", *TASKS)
    started.servers[0].wait_for("step 6: held out")
    started.servers[1].kill(signal.SIGKILL)
    started.wait()
    processes.run(2, 1, tmp_path / "killed", *TASKS)
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "two")


def test_a_mistake_is_told_once(processes: Processes, by_two: Path) -> None:
    started = processes.start(2, 1, by_two, "stages.base.optimizer.learning_rate=1")
    assert started.wait() == [2, 2]
    first, second = started.outputs
    assert "was begun with another recipe" in first
    assert "was begun with" not in second
    assert "Traceback" not in first + second


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (["stages.base.saving.every=1"], "stages.base.saving.every: 4 in process 0, 1 in process 1"),
        (["--hang-timeout", "9"], "--hang-timeout: "),
        (["stages.base.data.corpus=missing"], "process 1 has failed: missing is not a token store"),
        pytest.param(["--out", "another"], "does not see the run directory", marks=pytest.mark.slow),
    ],
)
def test_processes_that_differ_end_before_they_compile(
    other: list[str], expected: str, processes: Processes, tmp_path: Path
) -> None:
    other = [str(tmp_path / word) if word == "another" else word for word in other]
    started = processes.start(2, 1, tmp_path / "run", last=other)
    assert started.wait() == [2, 2], started.outputs
    first, second = started.outputs
    assert expected in first
    assert "Traceback" not in first + second
    assert "compiling" not in first
    assert not (tmp_path / "run/base").exists()


# ---- more of the same ----


@pytest.mark.slow
def test_on_any_number_of_processes_and_devices_it_is_the_same_run(processes: Processes, tmp_path: Path) -> None:
    """8 devices of 4 processes, 4 of 2, 1 of 1, and back; each for some steps, until a signal reaches the last one."""
    longer = ["stages.base.budget=400 steps", "stages.base.evaluation.every=400", "stages.base.saving.every=400"]
    run, log = tmp_path / "run", tmp_path / "run/base/log.jsonl"
    for count, devices in [(4, 2), (2, 2), (1, 1), (4, 2), (2, 4), (1, 8), (4, 1)]:
        before = len(read_log(log))
        started = processes.start(count, devices, run, *longer)
        started.servers[0].wait_until(lambda before=before: len(read_log(log)) > before + 1)
        started.servers[-1].kill(signal.SIGTERM)
        assert set(started.wait()) <= {0, 128 + signal.SIGTERM}, started.outputs
        assert len(read_log(log)) > before
    processes.run(1, 1, run, *longer)
    processes.run(1, 1, tmp_path / "one", *longer)
    np.testing.assert_allclose(losses(run, 400), losses(tmp_path / "one", 400), rtol=1e-5)


@pytest.mark.slow
def test_as_many_devices_in_one_process(processes: Processes, by_two: Path, tmp_path: Path) -> None:
    """Not bit for bit on CPUs: sums across processes are gloo's, and in another order than those within one."""
    processes.run(1, 2, tmp_path / "run")
    np.testing.assert_allclose(losses(by_two), losses(tmp_path / "run"), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [[], ["stages.base.mesh.context=2"], ["stages.base.mesh.pod=2"]])
@pytest.mark.parametrize(("count", "devices"), [(2, 4), (4, 2)])
def test_eight_devices(
    count: int, devices: int, mesh: list[str], processes: Processes, by_one: Path, tmp_path: Path
) -> None:
    processes.run(count, devices, tmp_path / "run", *mesh)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(by_one), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["preparing ...", "compiling the train step ...", "step 6: held out"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_in_every_phase(phase: str, number: int, processes: Processes, by_two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    started = processes.start(2, 1, run)
    started.servers[0].wait_for(phase)
    started.servers[1].kill(number)
    assert 2 not in started.wait()
    processes.run(2, 1, run)
    assert log_of(run) == log_of(by_two)
    assert digest(run) == digest(by_two)


@pytest.mark.slow
def test_a_process_that_hangs_is_reported(processes: Processes, by_two: Path, tmp_path: Path) -> None:
    """Between steps: in the midst of a save or an evaluation it may take longer."""
    run = tmp_path / "run"
    steps_only = ["stages.base.evaluation.every=60", "stages.base.saving.every=60"]
    started = processes.start(2, 1, run, *steps_only, "--hang-timeout", 8, heartbeat=100)
    started.servers[0].wait_for("step 1/12")
    started.servers[1].kill(signal.SIGSTOP)
    status = started.servers[0].wait()
    started.servers[1].kill(signal.SIGCONT)
    assert status == TRY_AGAIN, started.outputs
    stacks = (run / "hang-0.txt").read_text()
    assert "process 0 of 2: no step has completed for" in stacks
    assert "_train_until_rewind" in stacks
    assert started.servers[1].wait() != 0
    processes.run(2, 1, run, *steps_only)
    np.testing.assert_array_equal(losses(run), losses(by_two))


def test_incomplete_flags_are_a_sentence(processes: Processes, tmp_path: Path) -> None:
    started = processes.start(1, 1, tmp_path, "--processes", 2)
    assert started.wait() == [2]
    assert "--coordinator and --process missing" in started.outputs[0]
