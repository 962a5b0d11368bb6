"""Detect hangs and failures: end a process that hangs, and all processes when one has failed.

A process that ends this way reports why, so that its launcher can start it again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from pathways_lite.distributed import coordination
from pathways_lite.distributed.stopping import Stop
from pathways_lite.errors import MISTAKE, TRY_AGAIN

_STDERR = 2  # the file descriptor: `sys.stderr` may be something else
PAUSES = 6
"""A pause (compilation, evaluation, save) may take this many times the timeout of a step."""

# ---- hangs of this process ----


class Watchdog:
    """A context that ends the process if `beat` is not called for `timeout` seconds; never if `timeout` is None.

    Python's stacks of all threads go to `directory`/hang-PROCESS.txt and to standard error; the exit status is
    TRY_AGAIN. If native code holds the interpreter lock, which this class's thread needs too, faulthandler's own thread
    writes the stacks to standard error, at the latest after twice `timeout`, and the exit status is 1.

    With many processes a hang of one is a hang of all, as they wait for each other inside a step. Each therefore
    watches itself, and the stacks of all of them show which one is different.
    """

    def __init__(self, directory: Path, timeout: float | None, *, exit: Callable[[int], object] = os._exit) -> None:
        self.path = directory / f"hang-{coordination.process_index()}.txt"
        self._timeout = timeout
        self._exit = exit
        self._timeout_factor = 1
        self._last_beat = time.monotonic()
        self._done = threading.Event()
        self._activity = "training"

    def beat(self) -> None:
        """Record that a step is done."""
        self._last_beat = time.monotonic()

    @contextlib.contextmanager
    def pause(self, activity: str) -> Iterator[None]:
        """Allow `PAUSES` times the timeout for an activity other than a step."""
        outer = self._timeout_factor, self._activity
        self._timeout_factor, self._activity = PAUSES, activity
        self.beat()
        try:
            yield
        finally:
            self.beat()
            self._timeout_factor, self._activity = outer

    def __enter__(self) -> Self:
        self.beat()
        if self._timeout is not None:
            self._thread = threading.Thread(target=self._watch, args=(self._timeout,), daemon=True, name="watchdog")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._timeout is not None:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self, timeout: float) -> None:
        while not self._done.wait(min(timeout / 4, 5.0)):
            # Takes effect unless this thread gets here again in time.
            faulthandler.dump_traceback_later(2 * timeout, exit=True, file=_STDERR)
            seconds = time.monotonic() - self._last_beat
            if seconds > timeout * self._timeout_factor:
                self._report(seconds)
                self._exit(TRY_AGAIN)
                return

    def _report(self, seconds: float) -> None:
        message = (
            f"process {coordination.process_index()} of {coordination.process_count()}: "
            f"no step has completed for {seconds:.0f} s ({self._activity}); "
            f"ending with status {TRY_AGAIN}. The stacks of its threads, most recent call first, are in {self.path}:\n"
        )
        for write in (self._write_file, self._write_stderr):
            with contextlib.suppress(OSError):  # a full disk or a closed terminal must not keep it from ending
                write(message)

    def _write_file(self, message: str) -> None:
        with self.path.open("w") as file:
            file.write(message)
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
            os.fsync(file.fileno())

    def _write_stderr(self, message: str) -> None:
        os.write(_STDERR, f"\n{message}".encode())
        faulthandler.dump_traceback(_STDERR, all_threads=True)


# ---- signals and failures of other processes ----

_INTERVAL = 1.0  # seconds between two polls
# Seconds for a process to report a failure that it shares with the others; after them its monitor ends it.
_GRACE = 3.0


class FailureMonitor:
    """A context in which a thread polls, once a second, what the other processes have published.

    Signals are exchanged through `stop`. A failure of another process ends this one: that process will not reach the
    next step, and waiting for it may take until a timeout. Process 0 prints which process failed, and why. The exit
    status is MISTAKE if the failure was a mistake, which no launcher should repeat, and TRY_AGAIN otherwise.
    """

    def __init__(self, stop: Stop, *, exit: Callable[[int], object] = os._exit) -> None:
        self._stop, self._exit = stop, exit
        self._done = threading.Event()

    def __enter__(self) -> Self:
        if coordination.process_count() > 1:
            self._thread = threading.Thread(target=self._watch, daemon=True, name="failure monitor")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if coordination.process_count() > 1:
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            try:
                self._stop.exchange_signals()
                failures = _poll_failures()
            except (
                RuntimeError
            ):  # the coordination service does not answer; if it is gone, JAX's heartbeat ends this process
                continue
            failures.pop(coordination.process_index(), None)
            if failures and not self._done.wait(_GRACE):
                process, (text, _) = min(failures.items())
                if coordination.is_primary():
                    print(f"\nended because process {process} has failed: {text}", file=sys.stderr, flush=True)
                announce_failure("", TRY_AGAIN)
                self._exit(MISTAKE if any(status == MISTAKE for _, status in failures.values()) else TRY_AGAIN)


def announce_failure(text: str, status: int) -> bool:
    """Announce to the other processes that this one ends because of `text`; return True if it should print `text`.

    `text` is "" if another process caused the end. A failure that all share is printed by process 0 alone. Process 0
    waits until the others have announced theirs, as it hosts the coordination service.
    """
    if coordination.process_count() == 1:
        return True
    try:
        return _announce(text, status)
    except RuntimeError:  # the coordination service is gone, and with it every listener
        return True


def _announce(text: str, status: int) -> bool:
    coordination.publish("failed", json.dumps([text, status]))
    end = time.monotonic() + 2 * _GRACE
    while time.monotonic() < end:
        announced = coordination.poll("failed")
        if coordination.is_primary() and len(announced) == coordination.process_count():
            time.sleep(0.5)  # all have announced their end, and are about to exit
            break
        if not coordination.is_primary() and 0 in announced:
            return bool(text) and json.loads(announced[0])[0] != text
        time.sleep(0.05)
    return bool(text)


def _poll_failures() -> dict[int, tuple[str, int]]:
    """Return text and status of the processes that have failed of themselves, by process index."""
    announced = {process: json.loads(text) for process, text in coordination.poll("failed").items()}
    return {process: (text, status) for process, (text, status) in announced.items() if text}
