"""Handle SIGTERM, SIGINT and SIGHUP: the first requests a clean stop, a second one stops at once, in every phase.

SIGHUP says that the terminal was closed. It is left alone where the process was started with SIGHUP ignored (`nohup`).

Python runs a signal handler only when the main thread is back in the interpreter, which may be minutes later while it
compiles. The interpreter's own C handler, however, writes the signal number to a file descriptor at once, and a thread
that reads it can act: XLA releases the interpreter lock while it compiles and executes. Where the lock is held for
long, as while modules are loaded, it finds both signals at the same time; on Linux the kernel says when they arrived.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STDOUT, _STDERR = 1, 2

# `timeout`, batch systems and terminals send one request to the process and to its group: two signals, one request.
_SAME_REQUEST = 0.1  # seconds

_SO_TIMESTAMP = 29  # asm-generic/socket.h; a message brings a struct timeval


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP arrived; everything up to the last completed step is saved."""


class StopSignals:
    """Context manager in which the first SIGTERM, SIGINT or SIGHUP sets `requested`, for a training loop to poll.

    A second signal ends the process at once with exit status 128 plus its number, without saving or flushing. Enter it
    in the main thread. On exit the previous handlers are restored.

    `describe`: returns what the first signal leads to, in words for the user.
    """

    def __init__(self, describe: Callable[[], str] = lambda: "saving a checkpoint and stopping") -> None:
        self._describe = describe
        self._first: tuple[signal.Signals, float] | None = None
        self._old_handlers: dict[signal.Signals, Any] = {}
        self._terminals: list[int] = []
        self._old_wakeup = -1

    @property
    def requested(self) -> int:
        """Number of the first signal, 0 before it."""
        return self._first[0] if self._first else 0

    @property
    def exit_status(self) -> int:
        """128 plus the number of the first signal, as in shells; 0 before it."""
        return 128 + self.requested if self.requested else 0

    def __enter__(self) -> Self:
        self._reader, self._writer = _timestamped_pair() if sys.platform == "linux" else socket.socketpair()
        self._writer.setblocking(False)
        self._old_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._terminals = [descriptor for descriptor in (_STDOUT, _STDERR) if os.isatty(descriptor)]
        # Only the interpreter's C handler matters; without some Python handler it would not be installed.
        numbers = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._old_handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
        self._watcher = threading.Thread(target=self._watch, args=(self._reader,), daemon=True, name="signals")
        self._watcher.start()
        _active.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        _active.discard(self)
        self._restore_handlers()
        self._writer.close()
        self._watcher.join()
        self._reader.close()

    def _restore_handlers(self) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)

    def _watch(self, reader: socket.socket) -> None:
        while True:
            numbers, ancillary, *_ = reader.recvmsg(1, socket.CMSG_SPACE(_TIMEVAL.size))
            if not numbers:
                return
            if numbers[0] in self._old_handlers:
                arrived = [_TIMEVAL.unpack(data) for *_, data in ancillary]
                now = arrived[0][0] + 1e-6 * arrived[0][1] if arrived else time.time()
                self._receive(signal.Signals(numbers[0]), now)

    def _receive(self, number: signal.Signals, now: float) -> None:
        """Act on a signal that arrived at the time `now`."""
        if self._first is None:
            _print(f"{number.name}: {self._describe()}; a second one stops at once.")
            if number == signal.SIGHUP:
                self._leave_terminals()
            self._first = (number, now)
        elif now - self._first[1] > _SAME_REQUEST:
            os._exit(128 + number)

    def _leave_terminals(self) -> None:
        """Send further output nowhere: writing to a terminal that was closed is an error."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


_active: weakref.WeakSet[StopSignals] = weakref.WeakSet()


_TIMEVAL = struct.Struct("@ll")  # seconds and microseconds


def _timestamped_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that keep messages apart, each with the time at which it was written."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
    return reader, writer


def _restore_in_child() -> None:
    """Restore the handlers in a forked worker, which has no watcher and must not report its signals to this process."""
    for stop in list(_active):
        stop._restore_handlers()
    _active.clear()


os.register_at_fork(after_in_child=_restore_in_child)


def _print(line: str) -> None:
    """Write to stderr past Python's buffers, whose lock the main thread may hold. A closed terminal is ignored."""
    with contextlib.suppress(OSError):
        os.write(_STDERR, f"\n{line}\n".encode())
