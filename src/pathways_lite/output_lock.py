"""Lock what a command writes, so that two commands never write the same output at once.

A directory is locked like a run, by `run.lock` in it: a command does not write into a run that is being trained either.
A file is locked by a hidden file beside it, which is removed afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pathways_lite.run_lock import FILE_NAME, RunLock


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold the lock of an output directory, which is made. Raises UserError while another process holds it."""
    is_new = not directory.exists()
    try:
        with RunLock(directory):
            yield
    except BaseException:
        if is_new:
            _remove_unused(directory)
        raise


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold the lock of an output file. Raises UserError while another process holds it."""
    name = f".{path.name}.lock"
    lock = RunLock(path.parent, file_name=name)
    lock.acquire_removable()
    try:
        yield
    finally:
        (path.parent / name).unlink(missing_ok=True)
        lock.release()


def _remove_unused(directory: Path) -> None:
    """Remove a directory that holds nothing but its lock, so that a command that failed leaves nothing."""
    with contextlib.suppress(OSError):
        if [path.name for path in directory.iterdir()] == [FILE_NAME]:
            (directory / FILE_NAME).unlink()
            directory.rmdir()
