"""Write files atomically: a reader sees the old content or the new content, never a part of either.

The new content is written under a temporary name in the same directory, put on the disk, and renamed to its final name.
That holds against readers, against a kill of the writer at any time, and against a power cut: without the sync before
the rename, a file system may keep the new name and lose the content, which leaves an empty file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replace_atomically(path: Path, *, sync: bool = True, shared: bool = False) -> Iterator[Path]:
    """Yield the temporary path `PATH.tmp` to write to, a file or a directory; it becomes `path` when the block ends.

    A file replaces an existing one; a directory must be new or replace an empty one. If the block raises, `path` is
    left as it was and a temporary file is deleted. A temporary file of a killed writer is overwritten by the next one.

    Args:
      sync: write the content to the disk (fsync) before the rename, and the new name after it. False is for files that
        are checked when they are read and can be made again, and for directories, which sync their files themselves.
      shared: put the process id into the temporary name, for files that several processes may write at once.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp" if shared else f"{path.name}.tmp")
    try:
        yield temporary
        if sync:
            fsync(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        with contextlib.suppress(OSError):  # the file is whole; some file systems cannot sync a directory
            fsync(path.parent)


def write_text_atomically(path: Path, text: str, *, sync: bool = True, shared: bool = False) -> None:
    """Write `text` in UTF-8; see `replace_atomically`."""
    with replace_atomically(path, sync=sync, shared=shared) as temporary:
        temporary.write_text(text, encoding="utf-8")


def fsync(path: Path) -> None:
    """Put the content of a file, or the names in a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
