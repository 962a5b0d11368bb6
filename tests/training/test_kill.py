"""Real processes, really killed: what is left resumes bit for bit, whenever the signal comes."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.fork_server import ForkServer
from pathways_lite.checkpoints import CheckpointManager, fsck, read_manifest

STEPS = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    server = ForkServer(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


def arguments(recipe_file: Path, run: Path, *more: str) -> list[Any]:
    return ["train", recipe_file, *more, "--track", "none", "--out", run]


# So that many kills hit a save.
SAVED_AT_EVERY_STEP = ("stages.base.saving.every=1", "stages.base.saving.keep=3")


def result(run: Path) -> tuple[bytes, str]:
    """Log and digest of the final arrays."""
    newest = CheckpointManager(run / "base" / "checkpoints").path(STEPS)
    return (run / "base" / "log.jsonl").read_bytes(), read_manifest(newest).digest


@pytest.fixture(scope="module")
def uninterrupted(server: ForkServer, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    """Log and digest of a run that nobody disturbs."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert server.run(*arguments(recipe_file, run)) == 0, server.output.read_text()
    return result(run)


def kill_again_and_again(
    server: ForkServer, recipe_file: Path, reference: tuple[bytes, str], root: Path, kills: int
) -> None:
    """Kill -9 at random moments; whenever a run survives to its end it must equal the reference, and another begins.

    A moment is some time after a checkpoint that the run has yet to save, or after its start: whatever the machine's
    speed, most kills hit.
    """
    moments, runs, killed = random.Random(0), 0, 0
    while killed < kills or not runs:
        run = root / f"run{runs}"
        checkpoints = CheckpointManager(run / "base" / "checkpoints")
        saved = checkpoints.newest or 0
        server.start(*arguments(recipe_file, run, *SAVED_AT_EVERY_STEP))
        if killed < kills and saved < STEPS:
            step = moments.randint(saved, STEPS - 1)
            server.wait_until(lambda step=step, checkpoints=checkpoints: (checkpoints.newest or 0) >= step)
            time.sleep(moments.uniform(0, 0.5))
            server.kill()
        status = server.wait()
        assert status in (0, -signal.SIGKILL), server.output.read_text()
        killed += status != 0
        if status == 0:
            assert result(run) == reference
            assert all(finding.ok for finding in fsck(run))
            runs += 1


def test_killed_runs_resume_bit_for_bit(
    server: ForkServer, recipe_file: Path, uninterrupted: tuple[bytes, str], tmp_path: Path
) -> None:
    kill_again_and_again(server, recipe_file, uninterrupted, tmp_path, kills=5)


@pytest.mark.slow
def test_runs_killed_many_times_resume_bit_for_bit(
    server: ForkServer, recipe_file: Path, uninterrupted: tuple[bytes, str], tmp_path: Path
) -> None:
    kill_again_and_again(server, recipe_file, uninterrupted, tmp_path, kills=25)


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("compiling the train step ...", signal.SIGTERM),
        ("step 1/12", signal.SIGINT),
        ("step 6: held out", signal.SIGTERM),
        pytest.param("compiling the train step ...", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("step 1/12", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("step 6: held out", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_leaves_in_every_phase(
    phase: str,
    number: signal.Signals,
    server: ForkServer,
    recipe_file: Path,
    uninterrupted: tuple[bytes, str],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    server.start(*arguments(recipe_file, run))
    server.wait_for(phase)
    server.kill(number)
    status = server.wait()
    assert status in (0, 128 + number)  # 0: it was about to end anyway
    assert "Traceback" not in server.output.read_text()
    assert server.run(*arguments(recipe_file, run)) == 0
    assert result(run) == uninterrupted


def test_a_second_writer_is_refused(server: ForkServer, recipe_file: Path, tmp_path: Path) -> None:
    from pathways_lite.run_lock import RunLock

    with RunLock(tmp_path):
        assert server.run(*arguments(recipe_file, tmp_path)) == 2
    output = server.output.read_text()
    assert "in use by another run" in output
    assert str(os.getpid()) in output
    assert "Traceback" not in output
