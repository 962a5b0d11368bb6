"""The manifest of a checkpoint: the list of its arrays and files with their digests, its metadata, and its own digest.

There are three layers of digests, because each finds what the others cannot. The fingerprint of every array's logical
content is the authority: it also detects damage that happened before the data reached the disk, and it does not depend
on how the array was sharded over devices and hosts when it was saved. CRC-32 of every file is fast, detects any single
flipped bit with certainty, names the file, and keeps damaged bytes away from the decoder. SHA-256 of the manifest
protects both lists and the metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self

from pathways_lite.errors import UserError

FILE_NAME = "manifest.json"
FORMAT = 2
_LARGEST = 1 << 30  # bytes of a manifest; one of 6,000 processes' shards takes a tenth of it

# The file begins with its own digest: SHA-256 of all its bytes with these 64 digits set to zero.
_HEAD = b'{\n "digest": "'
_BLANK = b"0" * 64
_BODY = len(_HEAD) + len(_BLANK)


class DamagedError(UserError):
    """A checkpoint differs from what was written; `problems` has one line for each difference."""

    def __init__(self, path: Path, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join([f"checkpoint {path} is damaged:", *self.problems]))


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read. Raises OSError, also where it is no file: a pipe or a device could be read for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a file")
    return open(descriptor, "rb")  # noqa: PTH123


@dataclass(frozen=True)
class ArraySpec:
    """Logical shape and dtype of an array: `float32`, `bfloat16`, or of typed PRNG keys the keys' own, `key<fry>`."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class ArrayInfo(ArraySpec):
    """The manifest's entry for an array, with its size on disk and its fingerprint."""

    nbytes: int
    fingerprint: str  # `checkpoints.fingerprint`, 32 hexadecimal digits


@dataclass(frozen=True)
class FileInfo:
    """The manifest's entry for a file: its size and checksum as written."""

    nbytes: int
    crc32: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Compute the entry of the file at `path`, reading it once. Raises OSError."""
        crc = nbytes = 0
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                crc = zlib.crc32(block, crc)
                nbytes += len(block)
        return cls(nbytes, crc)

    @classmethod
    def of_bytes(cls, content: bytes) -> Self:
        """Compute the entry of a file with this content."""
        return cls(len(content), zlib.crc32(content))


@dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint except the arrays' content; reading it needs no Orbax."""

    step: int
    arrays: dict[str, ArrayInfo]
    files: dict[str, FileInfo]
    meta: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Total bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def params_digest(self) -> str:
        """The SHA-256 of the parameters alone, as hexadecimal digits: equal where a model came in, or out and in again.

        `digest` is also of the optimizer's state.
        """
        params = sorted(name for name in self.arrays if name.startswith("params."))
        return hashlib.sha256(
            "".join(f"{name} {self.arrays[name]} {self.arrays[name].fingerprint}\n" for name in params).encode()
        ).hexdigest()

    @property
    def digest(self) -> str:
        """SHA-256 of all arrays' names, types and fingerprints: equal if two checkpoints hold the same arrays."""
        lines = (f"{name} {array} {array.fingerprint}\n" for name, array in sorted(self.arrays.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """Serialize to JSON that carries its own digest."""
        fields = {"digest": _BLANK.decode(), "format": FORMAT, **asdict(self)}
        blank = json.dumps(fields, indent=1, allow_nan=False).encode()
        return _HEAD + hashlib.sha256(blank).hexdigest().encode() + blank[_BODY:]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file at `path`. Raises OSError, and ValueError as `from_bytes` does."""
        with open_regular(path) as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        return cls.from_bytes(raw)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Parse what `to_bytes` wrote. Raises ValueError if any bit has changed, or if another version wrote it."""
        digest = raw[len(_HEAD) : _BODY]
        blank = raw[: len(_HEAD)] + _BLANK + raw[_BODY:]
        if not raw.startswith(_HEAD) or hashlib.sha256(blank).hexdigest().encode() != digest:
            raise ValueError("its content is not what was written")
        try:
            fields = json.loads(raw)
            if fields["format"] != FORMAT:
                raise ValueError(
                    f"it has format {fields['format']}; this version of pathways_lite reads format {FORMAT}"
                )
            manifest = cls(
                step=int(fields["step"]),
                arrays={name: ArrayInfo(**{**a, "shape": tuple(a["shape"])}) for name, a in fields["arrays"].items()},
                files={name: FileInfo(**f) for name, f in fields["files"].items()},
                meta=dict(fields["meta"]),
            )
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"its fields are not those of a manifest ({error!r})") from error
        # Whoever made the digest may have written anything into it.
        if outside := [name for name in (*manifest.files, *manifest.arrays) if not _is_inside(name)]:
            raise ValueError(f"{outside[0]!r} is not a path inside the checkpoint")
        return manifest


def _is_inside(name: str) -> bool:
    """Return whether a relative path stays below the directory that it is relative to."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
