"""Reading files that may be compressed, up to the point where they are damaged."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard

_BLOCK = 1 << 20


class DamagedError(Exception):
    """The rest of a file cannot be read; the message says why, without the file's name."""


def read_blocks(path: Path) -> Iterator[tuple[bytes, int]]:
    """Decompressed blocks of a file and the bytes of the file that each one used.

    `.gz` and `.zst` are decompressed. Everything before a damage is given, then DamagedError is raised:
    unlike the gzip module, which loses the block before the end, and zstandard's reader, which does not notice it.
    """
    makers: dict[str, Callable[[], Any]] = {
        ".gz": lambda: zlib.decompressobj(wbits=31),
        ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
    }
    make = makers.get(path.suffix)
    try:
        with path.open("rb") as file:
            raw = iter(lambda: file.read(_BLOCK), b"")
            if make is None:
                yield from ((block, len(block)) for block in raw)
            else:
                yield from _decompress(raw, make, path.suffix[1:])
    except OSError as error:
        raise DamagedError(f"cannot be read ({error.strerror})") from error


def _decompress(raw: Iterator[bytes], make: Callable[[], Any], kind: str) -> Iterator[tuple[bytes, int]]:
    """A file may be several compressed streams, one after the other."""
    stream = None
    for block in raw:
        used, rest = len(block), block
        while rest:
            stream = stream or make()
            try:
                content = stream.decompress(rest)
            except (zlib.error, zstandard.ZstdError) as error:
                raise DamagedError(f"the {kind} data is damaged ({error})") from error
            rest = stream.unused_data
            if stream.eof:
                stream = None
            yield content, used
            used = 0
    if stream is not None:
        raise DamagedError(f"the file ends in the middle of its {kind} data")


def read_all(path: Path) -> bytes:
    """The whole decompressed content. Raises DamagedError."""
    return b"".join(block for block, _ in read_blocks(path))


def bare_name(path: Path) -> tuple[str, str]:
    """File name without the suffix of its compression and without its own, and its own suffix: `x.jsonl.gz`."""
    inner = Path(path.stem) if path.suffix in (".gz", ".zst") else Path(path.name)
    return inner.stem, inner.suffix.lower()
