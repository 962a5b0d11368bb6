"""One writer per token store: the lock of `data build` and `data apply`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from pathways_lite.data.zarr_io import is_remote
from pathways_lite.errors import UserError
from pathways_lite.paths import absolute_path
from pathways_lite.run_lock import FILE_NAME, InUseError, RunLock, find_holder


@contextlib.contextmanager
def lock_store(address: str, workspace: Path | None = None) -> Iterator[None]:
    """Hold the right to write the store at `address`. Raises UserError while another process holds it.

    The lock is in OUT.building, next to a local store. For a remote one it is in `workspace`, if given, and so holds
    among processes that share that directory.
    """
    directory = workspace if is_remote(address) else store_workspace(address)
    if directory is None:
        yield
        return
    lock = RunLock(directory, note=lambda line: None)  # a build that was killed is continued without a word
    try:
        lock.acquire_removable()
    except InUseError as error:
        holder = find_holder(directory)
        raise UserError(
            f"{address} is being written by another process ({holder or 'which has just started'}); "
            "wait until it has ended, or name another directory"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if all(path.name == FILE_NAME for path in directory.iterdir()):  # nothing is left to continue
                shutil.rmtree(directory, ignore_errors=True)
        lock.release()


def store_workspace(address: str) -> Path:
    """Return the directory next to a local store in which it is built."""
    path = Path(address) if Path(address).name not in ("", "..") else Path(absolute_path(address))
    return path.with_name(f"{path.name}.building")


def clear_workspace(directory: Path) -> None:
    """Remove the unfinished work in a directory, but not the lock that this process may hold there."""
    for path in list(directory.iterdir()) if directory.is_dir() else []:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != FILE_NAME:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()
