"""A writer that was suspended while another one took its run directory over ends, and writes nothing."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from helpers.run_helpers import StopAfter, stub_slow_parts
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.errors import LostRunError
from pathways_lite.recipe import load_recipe
from pathways_lite.run_lock import FILE_NAME, STALE_AFTER, Owner
from pathways_lite.training.run import train_run


@pytest.mark.parametrize("step", [5, 8, 12])
def test_a_run_that_was_taken_over_writes_nothing_more(
    step: int, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_slow_parts(monkeypatch)
    base = tmp_path / "base"
    seen: dict[str, object] = {}

    class TakeOver(StopAfter):
        def after_step(self, stage: str, step: int) -> None:
            if step == self.step and not seen:
                owner = {**vars(Owner.this_process()), "host": "elsewhere", "pid": 4}
                (tmp_path / FILE_NAME).write_text(json.dumps(owner))
                seen.update(log=(base / "log.jsonl").read_bytes())

    with pytest.raises(LostRunError, match=r"taken over by another run .*@elsewhere, process 4"):
        train_run(load_recipe(recipe_file), tmp_path, console=Console(file=io.StringIO()), hooks=TakeOver(step))
    assert (base / "log.jsonl").read_bytes() == seen["log"]
    assert all(saved < step for saved in CheckpointManager(base / "checkpoints").steps())
    assert not (base / "summary.json").exists()
    assert "elsewhere" in (tmp_path / FILE_NAME).read_text()


RUN = """
import fcntl, os, signal, socket, sys
from pathlib import Path
from pathways_lite import run_lock
from pathways_lite.errors import UserError
from pathways_lite.recipe import load_recipe
from pathways_lite.training.hooks import TrainerHooks
from pathways_lite.training.run import train_run

host, recipe, out, suspended_at = sys.argv[1:]
socket.gethostname = lambda: host
run_lock.HEARTBEAT = 2.0
fcntl.flock = lambda *_: None  # as NFS with local_lock: locks are the host's own


class Suspend(TrainerHooks):
    def after_step(self, stage, step):
        if step == int(suspended_at):
            os.kill(os.getpid(), signal.SIGSTOP)


try:
    status = train_run(load_recipe(recipe), Path(out), hooks=Suspend())
except UserError as error:
    print(error)
    status = error.status
print("status", status, flush=True)
os._exit(status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suspended_at", [5, 9])
def test_two_hosts_whose_locks_do_not_meet_never_interleave(
    suspended_at: int, recipe_file: Path, tmp_path: Path
) -> None:
    def start(host: str, out: Path, suspended_at: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RUN, host, str(recipe_file), str(out), str(suspended_at)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    alone, contested = tmp_path / "alone", tmp_path / "contested"
    assert start("c", alone, -1).wait() == 0
    first = start("a", contested, suspended_at)
    while Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.1)
    old = time.time() - STALE_AFTER - 60
    os.utime(contested / FILE_NAME, (old, old))
    second = start("b", contested, 11)
    while Path(f"/proc/{second.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.1)
    first.send_signal(signal.SIGCONT)  # both are awake now; the first does not own the directory
    output = first.communicate(timeout=240)[0]
    assert first.returncode == 2, output
    assert "taken over by another run" in output
    second.send_signal(signal.SIGCONT)
    output = second.communicate(timeout=240)[0]
    assert second.returncode == 0, output
    assert (contested / "base/log.jsonl").read_bytes() == (alone / "base/log.jsonl").read_bytes()
    digests = [read_manifest(CheckpointManager(run / "base/checkpoints").path(12)).digest for run in (alone, contested)]
    assert digests[0] == digests[1]
