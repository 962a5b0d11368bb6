"""A process that hangs says where, and ends, so that its launcher can start it again.

With many processes a hang of one is a hang of all, as they wait for each other inside a step. Each therefore watches
itself, and the stacks of all of them together show which one is different.
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
PAUSES = 6  # a compilation, evaluation or save may take so many times as long as a step


class Watchdog:
    """While it is entered, ends the process when `beat` has not been called for `timeout` seconds; never with None.

    Python's stacks of all threads go to `directory`/hang-PROCESS.txt and to standard error, and the exit status is
    TRY_AGAIN. Where native code holds the interpreter lock, and with it this class's thread, faulthandler's own thread
    writes the stacks to standard error, at the latest after `timeout` has passed twice, and the exit status is 1.
    """

    def __init__(self, directory: Path, timeout: float | None, *, exit: Callable[[int], object] = os._exit) -> None:
        self.path = directory / f"hang-{coordination.process_index()}.txt"
        self._timeout = timeout
        self._exit = exit
        self._patience = 1
        self._last = time.monotonic()
        self._done = threading.Event()
        self._doing = "training"

    def beat(self) -> None:
        """A step is done."""
        self._last = time.monotonic()

    @contextlib.contextmanager
    def pause(self, doing: str) -> Iterator[None]:
        """Something else than steps, which may take `PAUSES` times as long."""
        outer = self._patience, self._doing
        self._patience, self._doing = PAUSES, doing
        self.beat()
        try:
            yield
        finally:
            self.beat()
            self._patience, self._doing = outer

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
            # Unless this thread comes here again in time.
            faulthandler.dump_traceback_later(2 * timeout, exit=True, file=_STDERR)
            silent = time.monotonic() - self._last
            if silent > timeout * self._patience:
                self._report(silent)
                self._exit(TRY_AGAIN)
                return

    def _report(self, silent: float) -> None:
        told = (
            f"process {coordination.process_index()} of {coordination.process_count()}: "
            f"no step has completed for {silent:.0f} s ({self._doing}); "
            f"ending with status {TRY_AGAIN}. The stacks of its threads, the newest call first, are in {self.path}:\n"
        )
        for write in (self._to_file, self._to_stderr):
            with contextlib.suppress(OSError):  # neither a full disk nor a closed terminal keeps it from ending
                write(told)

    def _to_file(self, told: str) -> None:
        with self.path.open("w") as file:
            file.write(told)
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
            os.fsync(file.fileno())

    def _to_stderr(self, told: str) -> None:
        os.write(_STDERR, f"\n{told}".encode())
        faulthandler.dump_traceback(_STDERR, all_threads=True)


# Watching the other processes: passing signals on, and not waiting for those that have failed.


_EVERY = 1.0  # seconds
# What has failed together is told by every process itself; only one that knows of nothing is ended by its vigil.
_GRACE = 3.0


class FailureMonitor:
    """While it is entered, a thread looks once a second for what other processes have told.

    A signal goes to `stop`, which also passes this process's on. A failure ends this process: the others will not come
    to the next step, and waiting for them may take until a time-out. The first process says who failed, and why. It
    ends with the status of a mistake where that was one, which nobody should repeat, and else with TRY_AGAIN.
    """

    def __init__(self, stop: Stop, *, exit: Callable[[int], object] = os._exit) -> None:
        self._stop, self._exit = stop, exit
        self._done = threading.Event()

    def __enter__(self) -> Self:
        if coordination.process_count() > 1:
            self._thread = threading.Thread(target=self._watch, daemon=True, name="vigil")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if coordination.process_count() > 1:
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            try:
                self._stop.listen()
                told = _failures()
            except RuntimeError:  # of the coordination service: JAX's heartbeat ends this process if it is gone
                continue
            failed = {process: what for process, what in told.items() if process != coordination.process_index()}
            if failed and not self._done.wait(_GRACE):
                process, (text, _) = min(failed.items())
                if coordination.is_primary():
                    print(f"\nended, because process {process} has failed: {text}", file=sys.stderr, flush=True)
                announce_failure("", TRY_AGAIN)
                self._exit(MISTAKE if any(status == MISTAKE for _, status in failed.values()) else TRY_AGAIN)


def announce_failure(text: str, status: int) -> bool:
    """Tell the others that this process ends because of `text` ("" when it is another's fault); whether to show it.

    What all have failed with is shown by the first alone. That one stays until the others have gone, as they could not
    tell anything without it.
    """
    if coordination.process_count() == 1:
        return True
    try:
        return _part(text, status)
    except RuntimeError:  # the coordination service is gone, and with it whoever would hear
        return True


def _part(text: str, status: int) -> bool:
    coordination.publish("failed", json.dumps([text, status]))
    end = time.monotonic() + 2 * _GRACE
    while time.monotonic() < end:
        told = coordination.poll("failed")
        if coordination.is_primary() and len(told) == coordination.process_count():
            time.sleep(0.5)  # they have heard of each other, and are about to go
            break
        if not coordination.is_primary() and 0 in told:
            return bool(text) and json.loads(told[0])[0] != text
        time.sleep(0.05)
    return bool(text)


def _failures() -> dict[int, tuple[str, int]]:
    """Text and status of the processes that have failed, and not because of another."""
    told = {process: json.loads(text) for process, text in coordination.poll("failed").items()}
    return {process: (text, status) for process, (text, status) in told.items() if text}
