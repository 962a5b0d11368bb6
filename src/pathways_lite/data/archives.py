"""Read the files in tar and zip archives one after another, without unpacking them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from pathways_lite.data.compressed import BLOCK_BYTES, BlockReader, Blocks, DamagedFileError


class Member(NamedTuple):
    """A file in an archive, whose content can be read until the next member is asked for."""

    name: str
    content: Iterator[bytes]  # raises DamagedFileError
    used: int  # bytes of the archive, for measuring progress
    reason: str = ""  # why it cannot be read, if so


def tar_members(blocks: Blocks) -> Iterator[Member]:
    """Yield the files in a decompressed tar archive in its order. Raises DamagedFileError."""
    reader = BlockReader(blocks)
    used = 0
    try:
        with tarfile.open(fileobj=io.BufferedReader(reader), mode="r|", tarinfo=_TarInfo) as archive:
            for info in archive:
                name = _member_name(info.name)
                if info.isdir() or name is None:
                    continue
                if info.issym() or info.islnk():
                    reason = f"a link in an archive (to {info.linkname}), which is not followed"
                    yield Member(name, iter(()), 0, reason)
                elif not info.isfile():
                    yield Member(name, iter(()), 0, "not a file")
                else:
                    yield Member(name, _read(archive.extractfile(info)), reader.used - used)
                    used = reader.used
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise DamagedFileError(f"the archive is damaged ({error})") from error


def zip_members(path: Path) -> Iterator[Member]:
    """Yield the files in a zip archive in its order. Raises DamagedFileError."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = _member_name(info.filename)
                if info.is_dir() or name is None:
                    continue
                if info.flag_bits & 1:
                    yield Member(name, iter(()), 0, "encrypted")
                    continue
                try:
                    file = archive.open(info)
                except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
                    yield Member(name, iter(()), 0, f"cannot be read ({error})")
                    continue
                with file:
                    yield Member(name, _read(file), info.compress_size)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DamagedFileError(f"not a whole zip archive ({error})") from error


def _member_name(name: str) -> str | None:
    """Return a member's name without `./` and `/` at its beginning; None if it is hidden, as in directories."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return None if not parts or any(part.startswith(".") for part in parts) else "/".join(parts)


def _read(file: Any) -> Iterator[bytes]:
    try:
        while block := file.read(BLOCK_BYTES):
            yield block
    except (DamagedFileError, GeneratorExit):
        raise
    except Exception as error:  # the decompressors of zip members raise errors of many kinds
        raise DamagedFileError(f"damaged in the archive ({error})") from error


class _TarInfo(tarfile.TarInfo):
    """A header of a tar archive; a damaged one is an error, where tarfile would end the archive silently."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise DamagedFileError(f"the archive is damaged ({error})") from error
