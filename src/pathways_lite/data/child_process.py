"""Worker processes end with the process that started them, however that one ends."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading


@functools.cache
def end_with_parent() -> None:
    """Start a thread that ends this process when its parent has ended; once, and only in a worker process.

    A worker would wait forever for a parent that was killed.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="end-with-parent").start()
