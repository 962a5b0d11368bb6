"""One writer per directory, tested with real processes."""

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from pathways_lite import run_lock
from pathways_lite.errors import LostRunError, UserError
from pathways_lite.run_lock import FILE_NAME, STALE_AFTER, Owner, RunLock

HOLD = """
import sys, time
from pathways_lite.run_lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_refused_with_owner_and_time(tmp_path, holder):
    with pytest.raises(UserError) as error:
        RunLock(tmp_path).acquire()
    for text in (
        getpass.getuser(),
        socket.gethostname(),
        f"process {holder.pid}",
        time.strftime("%Y-%m-%d"),
        "sys.argv",
    ):
        assert text in str(error.value)
    holder.communicate()
    notes: list[str] = []
    with RunLock(tmp_path, note=notes.append):
        pass
    assert notes == [], "a released lock is not reported as taken over"


def test_the_same_process_cannot_hold_it_twice(tmp_path):
    with RunLock(tmp_path):
        with pytest.raises(UserError, match=f"process {os.getpid()}"):
            RunLock(tmp_path).acquire()
        assert Owner(**json.loads((tmp_path / FILE_NAME).read_text())).pid == os.getpid(), (
            "the refusal must not change the file"
        )
    with RunLock(tmp_path):
        pass


def test_after_kill_9_the_next_run_takes_over_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    notes: list[str] = []
    with RunLock(tmp_path, note=notes.append):
        assert f"process {holder.pid}" in notes[0]
        assert "has died" in notes[0]
        with pytest.raises(UserError):
            RunLock(tmp_path).acquire()


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    script = HOLD.replace("    sys.stdin", "    import os\n    if not os.fork(): time.sleep(60)\n    sys.stdin")
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with RunLock(tmp_path, note=lambda _: None):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()


def write_owner(directory, **changes):
    (directory / FILE_NAME).write_text(json.dumps({**vars(Owner.this_process()), **changes}))


def test_an_owner_on_another_host_lives_while_its_heart_beats(tmp_path):
    write_owner(tmp_path, host="elsewhere", user="alice", pid=4)
    with pytest.raises(UserError, match=r"alice@elsewhere, process 4.* 300 s after its last sign of life"):
        RunLock(tmp_path).acquire()
    long_ago = time.time() - STALE_AFTER - 10
    os.utime(tmp_path / FILE_NAME, (long_ago, long_ago))
    notes: list[str] = []
    with RunLock(tmp_path, note=notes.append):
        assert "alice@elsewhere" in notes[0]


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "HEARTBEAT", 0.05)
    with RunLock(tmp_path):
        os.utime(tmp_path / FILE_NAME, (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / FILE_NAME).stat().st_mtime < 1e9:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("changes", "alive"),
    [({}, True), ({"started": "1"}, False), ({"boot": "before"}, False), ({"pid": 2**22 + 1}, False)],
    ids=["the process", "another with its pid", "before a restart", "no such process"],
)
def test_without_file_system_locks_the_text_decides(tmp_path, monkeypatch, changes, alive):
    def no_locks(*_):
        raise OSError(run_lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", no_locks)
    write_owner(tmp_path, **changes)
    notes: list[str] = []
    lock = RunLock(tmp_path, note=notes.append)
    if alive:
        with pytest.raises(UserError, match="in use"):
            lock.acquire()
    else:
        with lock:
            assert "has died" in notes[1]
    assert "has no locks" in notes[0]


RACE = """
import multiprocessing, sys, time
from pathways_lite.errors import LostRunError, UserError
from pathways_lite.run_lock import RunLock

context = multiprocessing.get_context("fork")
ready, decided, wins = context.Barrier(8), context.Barrier(8), context.Value("i", 0)

def race():
    ready.wait()
    try:
        with RunLock(sys.argv[1]):
            with wins:
                wins.value += 1
            decided.wait()
    except UserError:
        decided.wait()

racers = [context.Process(target=race) for _ in range(8)]
for racer in racers:
    racer.start()
for racer in racers:
    racer.join()
print(wins.value)
"""


def test_of_many_at_once_exactly_one_wins(tmp_path):
    result = subprocess.run([sys.executable, "-c", RACE, tmp_path], capture_output=True, text=True, timeout=60)
    assert result.stdout == "1\n", result.stderr


def test_the_half_written_text_of_a_dead_owner_is_no_obstacle(tmp_path):
    (tmp_path / FILE_NAME).write_text('{"user": "al')
    with RunLock(tmp_path):
        pass


def test_the_holder_is_found_without_taking_the_lock(tmp_path):
    assert run_lock.find_holder(tmp_path) is None
    with RunLock(tmp_path):
        owner = run_lock.find_holder(tmp_path)
        assert owner is not None
        assert owner.pid == os.getpid()
    assert run_lock.find_holder(tmp_path) is None


@pytest.mark.parametrize("content", ["another", "released", "removed"])
def test_a_process_that_has_lost_the_lock_is_told_and_leaves_it_alone(tmp_path, monkeypatch, content):
    monkeypatch.setattr(run_lock, "HEARTBEAT", 0.02)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.require_held()
    if content == "another":
        write_owner(tmp_path, host="elsewhere", user="alice", pid=4)
        expected = "taken over by another run \\(alice@elsewhere, process 4"
    elif content == "released":
        (tmp_path / FILE_NAME).write_text("")
        expected = "taken over by another run \\(which has ended"
    else:
        (tmp_path / FILE_NAME).unlink()
        expected = "moved or removed"
    with pytest.raises(LostRunError, match=expected):
        lock.require_held()
    if content == "another":
        before = (tmp_path / FILE_NAME).read_text()
        os.utime(tmp_path / FILE_NAME, (1, 1))
        time.sleep(0.2)
        assert (tmp_path / FILE_NAME).stat().st_mtime == 1, "its heart must not beat for another run"
        lock.release()
        assert (tmp_path / FILE_NAME).read_text() == before
    lock.release()


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "directory"])
def test_a_lock_that_is_not_a_file_of_its_own_is_refused_and_nothing_is_overwritten(tmp_path, kind):
    target, path = tmp_path / "target", tmp_path / FILE_NAME
    if "link" in kind:
        path.symlink_to(target)
    if kind == "link":
        target.write_text("precious")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    with pytest.raises(UserError, match=FILE_NAME):
        RunLock(tmp_path).acquire()
    assert target.exists() == (kind == "link")
    assert kind != "link" or target.read_text() == "precious"
