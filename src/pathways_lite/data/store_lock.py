"""One writer per token store: the lock of `data build` and `data apply`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from pathways_lite.atomic_file import fsync_directory
from pathways_lite.data.listing import is_token_store
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


@contextlib.contextmanager
def replaced_store(address: str) -> Iterator[str]:
    """Yield the address for a new store, which takes the place of the one at `address` when it is complete.

    Until then the old one can be read. An interruption between the two renames leaves both beside the place, and the
    same command finishes. Raises UserError for a remote store, which cannot be renamed, and for a directory with
    something else in it.
    """
    if is_remote(address):
        raise UserError(f"--replace works for local stores only; delete {address} yourself, or name another prefix")
    path = Path(absolute_path(address))
    if path.exists() and not is_token_store(path) and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{address} is not a token store, so --replace would delete something else; name another path")
    new, old = (path.with_name(f"{path.name}.{suffix}") for suffix in ("replacing", "replaced"))
    with lock_store(address):
        yield str(new)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        new.rename(path)
        fsync_directory(path.parent)
        shutil.rmtree(old, ignore_errors=True)


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
