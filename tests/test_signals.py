"""The first signal requests a stop, the second ends the process, whatever the main thread does; with real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pathways_lite.signals import StopSignals

POLLING = """
import time
from pathways_lite.signals import StopSignals
with StopSignals() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("saved", flush=True)
raise SystemExit(stop.exit_status)
"""

# The main thread is in C for a minute and runs no Python. The interpreter lock is free, as in XLA's compiler.
NATIVE = """
import ctypes
from pathways_lite.signals import StopSignals
with StopSignals() as stop:
    print("ready", flush=True)
    deadline = ctypes.CDLL(None).sleep(60)
    while deadline:
        deadline = ctypes.CDLL(None).sleep(deadline)
"""

HOLDING = """
import ctypes, time
from pathways_lite.signals import StopSignals
with StopSignals() as stop:
    print("ready", flush=True)
    ctypes.PyDLL(None).usleep(0)
    end = time.monotonic() + 1.2
    while time.monotonic() < end:  # a signal ends a sleep
        ctypes.PyDLL(None).usleep(int(1e6 * max(0.0, end - time.monotonic())))
    time.sleep(5)
    print("prepared", flush=True)
"""

COMPILING = """
import jax, jax.numpy as jnp
from pathways_lite.signals import StopSignals

def slow_to_compile(x):
    for i in range(400):
        x = jnp.sort(jnp.sin(x + i))
    return x

lowered = jax.jit(slow_to_compile).lower(jax.ShapeDtypeStruct((64, 64), "float32"))
with StopSignals() as stop:
    print("ready", flush=True)
    lowered.compile()
"""


def start(script):
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_requests_a_clean_stop(number):
    process = start(POLLING)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (out, process.returncode) == ("saved\n", 128 + number)
    assert err.count("a second one stops at once") == 1
    assert number.name in err


def test_a_run_that_was_started_with_sighup_ignored_does_not_end_with_its_terminal():
    process = start("import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)" + POLLING)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "saved\n"
    assert process.returncode == 128 + signal.SIGTERM


def test_a_run_whose_terminal_was_closed_saves_and_may_still_print(tmp_path):
    """Closing the terminal sends SIGHUP, and whatever is written to it from then on is an error."""
    script = POLLING.replace(
        'print("saved", flush=True)', "print('to the terminal', flush=True)\n    open(FILE, 'w').close()"
    )
    script = f"import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\nFILE = {str(tmp_path / 'saved')!r}" + script
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    output = b""
    while b"\n" not in output:
        output += os.read(controller, 100)
    time.sleep(0.2)
    os.close(controller)
    assert process.wait(timeout=20) == 128 + signal.SIGHUP
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_the_second_ends_the_process_at_once_in_native_code(first, second):
    process = start(NATIVE)
    process.send_signal(first)
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"
    assert "a second one stops at once" in process.stderr.readline(), "printed while the main thread is in C"
    time.sleep(0.2)
    assert process.poll() is None
    start_time = time.monotonic()
    process.send_signal(second)
    process.communicate(timeout=20)
    assert process.returncode == 128 + second
    assert time.monotonic() - start_time < 5


@pytest.mark.skipif(sys.platform != "linux", reason="the time of a signal is known on Linux only")
def test_the_second_counts_where_the_interpreter_is_held_until_after_it():
    """As while modules are loaded when a stage is prepared: `PyDLL` keeps the interpreter's lock."""
    process = start(HOLDING)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert "a second one stops at once" in err
    assert not out, "it ended as soon as the lock was free"


@pytest.mark.slow
def test_the_second_ends_the_process_at_once_during_compilation():
    process = start(COMPILING)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None, "compilation must take longer than this"
    start_time = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - start_time < 2


def test_one_request_that_arrives_twice_counts_once():
    process = start(POLLING)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)  # as `timeout` and batch systems do, to the process and to its group
    out, _ = process.communicate(timeout=20)
    assert out == "saved\n"
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT), "simultaneous signals arrive in any order"


def test_the_previous_handlers_are_restored():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 10
        while not stop.requested:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert stop.requested == signal.SIGINT
    assert {number: signal.getsignal(number) for number in before} == before
    assert signal.set_wakeup_fd(-1) == -1


FORKING = """
import os, signal, time
from pathways_lite.signals import StopSignals
with StopSignals() as stop:
    reader, writer = os.pipe()
    worker = os.fork()
    if not worker:
        os.write(writer, b"x")
        time.sleep(30)
        os._exit(0)
    os.read(reader, 1)
    os.kill(worker, signal.SIGTERM)
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    time.sleep(0.2)
    print("ready", status, stop.requested)
"""


def test_a_forked_worker_handles_its_own_signals():
    result = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60)
    assert result.stdout == f"ready {-signal.SIGTERM} 0\n"


def test_the_first_signal_says_what_comes_of_it() -> None:
    script = POLLING.replace("StopSignals()", "StopSignals(lambda: 'there is nothing to save')")
    process = start(script)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert "SIGINT: there is nothing to save; a second one stops at once." in said
