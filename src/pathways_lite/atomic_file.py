"""Write files atomically: a reader sees the old content or the new content, never a part of either.

The new content is written under a temporary name in the same directory, put on the disk, and renamed to its final name;
then the directory is put on the disk. That holds against readers, against a kill of the writer at any time, and against
a power cut: after it the file is the old one or the new one, and the new one once the writer has gone on.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

# Some network and container file systems refuse to sync a directory.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EBADF, errno.ENOSYS}


@contextlib.contextmanager
def replace_atomically(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield the temporary path `PATH.tmp` to write to, a file or a directory; it becomes `path` when the block ends.

    A file replaces an existing one; a directory must be new or replace an empty one. A link keeps its place: the file
    that it points to is replaced. A device or a pipe (`/dev/stdout`) is yielded itself. If the block raises, `path` is
    left as it was and a temporary file is deleted. A temporary file of a killed writer is overwritten by the next one.

    Args:
      shared: put the process id into the temporary name, for files that several processes may write at once.

    Raises OSError, with the path, if it cannot be written.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    final = Path(os.path.realpath(path)) if path.is_symlink() else path
    temporary = final.with_name(f"{final.name}.{os.getpid()}.tmp" if shared else f"{final.name}.tmp")
    try:
        yield temporary
        fsync_tree(temporary)
        temporary.replace(final)
        fsync_directory(final.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a full disk is told without a name, and the temporary one says nothing
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


def fsync_directory(path: Path) -> None:
    """Put the names in a directory on the disk, where the file system can do that."""
    try:
        fsync(path)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def fsync_tree(path: Path) -> None:
    """Put a file, or a directory with all that is in it, on the disk."""
    if not path.is_dir():
        fsync(path)
        return
    for folder, _, names in path.walk(top_down=False):
        for name in names:
            fsync(folder / name)
        fsync_directory(folder)
