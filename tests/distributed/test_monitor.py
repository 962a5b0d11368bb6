"""A process that hangs reports where and ends; one that works, or pauses, is left alone."""

import subprocess
import sys
import time

import pytest

from pathways_lite.distributed.monitor import PAUSES, Watchdog
from pathways_lite.errors import TRY_AGAIN

HANG = """
import sys, threading, time
from pathlib import Path
from pathways_lite.distributed.monitor import Watchdog

def hanging_function():
    threading.Event().wait()

with Watchdog(Path(sys.argv[1]), 1.5) as watchdog:
    for _ in range(10):
        time.sleep(0.1)
        watchdog.beat()
    with watchdog.pause("evaluating"):
        time.sleep(2.5)
    print("worked", flush=True)
    hanging_function()
"""


def test_a_hang_is_reported_with_stacks_and_ends_the_process(tmp_path):
    done = subprocess.run([sys.executable, "-c", HANG, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.stdout == "worked\n", "neither steps nor pauses are hangs"
    assert done.returncode == TRY_AGAIN == 75
    for text in (done.stderr, (tmp_path / "hang-0.txt").read_text()):
        assert "process 0 of 1: no step has completed for" in text
        assert "hanging_function" in text
        assert "monitor" in text, "all threads are there"


LOCKED = """
import ctypes, sys, time
from pathlib import Path
from pathways_lite.distributed.monitor import Watchdog

with Watchdog(Path(sys.argv[1]), 2) as watchdog:
    for _ in range(8):
        time.sleep(0.1)
        watchdog.beat()
    ctypes.PyDLL(None).sleep(60)  # holds the interpreter lock, as a deadlock of native code may
"""


def test_a_hang_that_holds_the_interpreter_lock_ends_too(tmp_path):
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LOCKED, tmp_path], capture_output=True, text=True, timeout=55)
    assert done.returncode == 1
    assert time.monotonic() - began < 30
    assert 'File "<string>", line 10' in done.stderr


def test_a_pause_too_long_is_a_hang(tmp_path):
    ended: list[int] = []
    watchdog = Watchdog(tmp_path, 0.5, exit=ended.append)
    with watchdog, watchdog.pause("saving"):
        begin = time.monotonic()
        while not ended and time.monotonic() < begin + 20:
            time.sleep(0.01)
        assert time.monotonic() - begin > 0.5 * PAUSES * 0.9
    assert ended == [TRY_AGAIN]
    assert "(saving)" in (tmp_path / "hang-0.txt").read_text()


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_no_hang_writes_no_file(tmp_path, timeout):
    with Watchdog(tmp_path, timeout):
        pass
    assert list(tmp_path.iterdir()) == []
