"""Write files atomically: a reader sees the old content or the new content, never a part of either.

The new content is written under a temporary name in the same directory and renamed to its final name. That holds
against readers and against a kill of the writer at any time. Against a power cut it holds with `sync=True`, which puts
the content on the disk before the rename. The directory is not synced, so after a power cut the old file may be back.
A checkpoint, which must not be lost either, syncs its directories itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replace_atomically(path: Path, *, sync: bool = False, shared: bool = False) -> Iterator[Path]:
    """Yield the temporary path `PATH.tmp` to write to, a file or a directory; it becomes `path` when the block ends.

    A file replaces an existing one; a directory must be new or replace an empty one. If the block raises, `path` is
    left as it was and a temporary file is deleted. A temporary file of a killed writer is overwritten by the next one.

    Args:
      sync: write a file's content to the disk (fsync) before the rename.
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


def write_text_atomically(path: Path, text: str, *, shared: bool = False) -> None:
    """Write `text` in UTF-8; see `replace_atomically`."""
    with replace_atomically(path, shared=shared) as temporary:
        temporary.write_text(text, encoding="utf-8")


def fsync(path: Path) -> None:
    """Put the content of a file, or the names in a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
