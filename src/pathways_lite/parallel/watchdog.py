"""A process that hangs says where, and ends, so that its launcher can start it again.

With many processes a hang of one is a hang of all, as they wait for each other inside a step. Each therefore watches
itself, and the stacks of all of them together show which one is different.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from pathways_lite.errors import TRY_AGAIN
from pathways_lite.parallel import hosts

_STDERR = 2  # the file descriptor: `sys.stderr` may be something else
PAUSES = 6  # a compilation, evaluation or save may take so many times as long as a step


class Watchdog:
    """While it is entered, ends the process when `beat` has not been called for `timeout` seconds; never with None.

    Python's stacks of all threads go to `directory`/hang-PROCESS.txt and to standard error, and the exit status is
    TRY_AGAIN. Where native code holds the interpreter lock, and with it this class's thread, faulthandler's own thread
    writes the stacks to standard error, at the latest after `timeout` has passed twice, and the exit status is 1.
    """

    def __init__(self, directory: Path, timeout: float | None, *, exit: Callable[[int], object] = os._exit) -> None:
        self.path = directory / f"hang-{hosts.index()}.txt"
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
            f"process {hosts.index()} of {hosts.count()}: no step has completed for {silent:.0f} s ({self._doing}); "
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
