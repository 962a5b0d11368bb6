"""Watching the other processes: passing signals on, and not waiting for those that have failed."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Self

from pathways_lite.errors import MISTAKE, TRY_AGAIN
from pathways_lite.parallel import hosts
from pathways_lite.parallel.stopping import Stop

_EVERY = 1.0  # seconds
# What has failed together is told by every process itself; only one that knows of nothing is ended by its vigil.
_GRACE = 3.0


class Vigil:
    """While it is entered, a thread looks once a second for what other processes have told.

    A signal goes to `stop`, which also passes this process's on. A failure ends this process: the others will not come
    to the next step, and waiting for them may take until a time-out. The first process says who failed, and why. It
    ends with the status of a mistake where that was one, which nobody should repeat, and else with TRY_AGAIN.
    """

    def __init__(self, stop: Stop, *, exit: Callable[[int], object] = os._exit) -> None:
        self._stop, self._exit = stop, exit
        self._done = threading.Event()

    def __enter__(self) -> Self:
        if hosts.count() > 1:
            self._thread = threading.Thread(target=self._watch, daemon=True, name="vigil")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if hosts.count() > 1:
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            try:
                self._stop.listen()
                told = _failures()
            except RuntimeError:  # of the coordination service: JAX's heartbeat ends this process if it is gone
                continue
            failed = {process: what for process, what in told.items() if process != hosts.index()}
            if failed and not self._done.wait(_GRACE):
                process, (text, _) = min(failed.items())
                if hosts.is_first():
                    print(f"\nended, because process {process} has failed: {text}", file=sys.stderr, flush=True)
                farewell("", TRY_AGAIN)
                self._exit(MISTAKE if any(status == MISTAKE for _, status in failed.values()) else TRY_AGAIN)


def farewell(text: str, status: int) -> bool:
    """Tell the others that this process ends because of `text` ("" when it is another's fault); whether to show it.

    What all have failed with is shown by the first alone. That one stays until the others have gone, as they could not
    tell anything without it.
    """
    if hosts.count() == 1:
        return True
    try:
        return _part(text, status)
    except RuntimeError:  # the coordination service is gone, and with it whoever would hear
        return True


def _part(text: str, status: int) -> bool:
    hosts.tell("failed", json.dumps([text, status]))
    end = time.monotonic() + 2 * _GRACE
    while time.monotonic() < end:
        told = hosts.news("failed")
        if hosts.is_first() and len(told) == hosts.count():
            time.sleep(0.5)  # they have heard of each other, and are about to go
            break
        if not hosts.is_first() and 0 in told:
            return bool(text) and json.loads(told[0])[0] != text
        time.sleep(0.05)
    return bool(text)


def _failures() -> dict[int, tuple[str, int]]:
    """Text and status of the processes that have failed, and not because of another."""
    told = {process: json.loads(text) for process, text in hosts.news("failed").items()}
    return {process: (text, status) for process, (text, status) in told.items() if text}
