"""End on Ctrl-C with one line and status 130, at any moment: also while modules are imported.

Imports nothing that takes time, as it must be in place before anything else is imported.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 128 + signal.SIGINT

_requested = False


def raise_on_interrupt() -> None:
    """Make the first Ctrl-C raise KeyboardInterrupt, so that unfinished files are removed, and a second end at once.

    Does nothing where SIGINT is ignored (`nohup`, a background job of a script) or handled already.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _end_if_swallowed


def is_interrupted() -> bool:
    """Return True after Ctrl-C: whatever was raised since may be a library's word for KeyboardInterrupt."""
    return _requested


def end_interrupted() -> NoReturn:
    """Print one line and end, without waiting for threads that compile or read."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, b"\nInterrupted.\n")
    os._exit(INTERRUPTED)


def _interrupt(_: int, frame: FrameType | None) -> None:
    global _requested
    if _requested or _is_importing(frame):
        end_interrupted()
    _requested = True
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    """Return True while a module is imported: extensions make something else of an exception, or print it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end_if_swallowed(unraisable: Any) -> None:
    """End where KeyboardInterrupt was raised in a destructor or callback, from which it would not get out."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        end_interrupted()
    sys.__unraisablehook__(unraisable)
