"""Decompress files into blocks of bounded size. The compression is recognized by the content, not by the ending."""

from __future__ import annotations

import bz2
import io
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

BLOCK_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 1 << 28
"""The most text of one document, unless `--max-document-mib` allows more: a small file can decompress to terabytes."""
# Compressed bytes that are decompressed at once: at zstd's highest ratio, 2^15, they become 128 MiB.
_SLICE_BYTES = 1 << 12
_LZ4_BYTES = 1 << 14  # read at once: as much is lost before a damage
_ERRORS = (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError, EOFError, ValueError)

Blocks = Iterator[tuple[bytes, int]]
"""Blocks of content, each with the number of bytes of the file that it used."""


class DamagedFileError(Exception):
    """The rest of a file cannot be read; the message says why, without the file's name."""


class TrailingBytesError(DamagedFileError):
    """Something follows the end of the compressed data; everything before it is whole."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"what follows the end of its {kind} data is no {kind} data and is ignored")


class TooLongError(DamagedFileError):
    """A document is longer than allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"longer than {limit / 2**20:g} MiB, the most text of one document; split it, or allow more with "
            "--max-document-mib"
        )


@dataclass(frozen=True)
class Compression:
    """A compression: how files of it begin, end, and are read."""

    kind: str
    magic: bytes
    suffixes: tuple[str, ...]
    tar_suffixes: tuple[str, ...]  # short for `.tar` and a suffix
    start: Callable[[], Any] | None  # makes an object with `decompress`, `eof` and `unused_data`; None: lz4


COMPRESSIONS = (
    Compression("gz", b"\x1f\x8b", (".gz", ".gzip"), (".tgz",), lambda: zlib.decompressobj(wbits=31)),
    # zstd --long=31 makes windows of 2 GiB; the library refuses those above 128 MiB unless it is told.
    Compression(
        "zst",
        b"\x28\xb5\x2f\xfd",
        (".zst", ".zstd"),
        (".tzst",),
        lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
    ),
    Compression("xz", b"\xfd7zXZ\0", (".xz",), (".txz",), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    Compression("lzma", b"\x5d\0\0", (".lzma",), (".tlz",), lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
    Compression("bz2", b"BZh", (".bz2", ".bzip2"), (".tbz2", ".tbz"), bz2.BZ2Decompressor),
    Compression("lz4", b"\x04\x22\x4d\x18", (".lz4",), (".tlz4",), None),
)
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after a first byte of 0x50 .. 0x5f: pzstd begins with such a frame


def compression_of(name: str, head: bytes) -> Compression | None:
    """Return the compression of a file by its first bytes, or else by its ending; None if it has none."""
    suffix = Path(name).suffix.lower()
    for compression in COMPRESSIONS:
        if suffix in compression.suffixes or suffix in compression.tar_suffixes:
            by_ending = compression
            break
    else:
        by_ending = None
    for compression in COMPRESSIONS:
        # The first bytes of .lzma and .bz2 occur in other files too.
        if head.startswith(compression.magic) and (compression is by_ending or _is_certain(compression, head)):
            return compression
    if head[:1] and 0x50 <= head[0] <= 0x5F and head[1:4] == _ZSTD_SKIPPABLE:
        return next(c for c in COMPRESSIONS if c.kind == "zst")
    return by_ending


def _is_certain(compression: Compression, head: bytes) -> bool:
    if compression.kind == "bz2":
        return head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")
    if compression.kind == "gz":
        return head[2:3] == b"\x08"
    return compression.kind != "lzma"


def strip_compression(name: str) -> str:
    """Return a file name without the ending of its compression: `x.jsonl` of `x.jsonl.gz`, `x.tar` of `x.tgz`."""
    path = Path(name)
    for compression in COMPRESSIONS:
        if path.suffix.lower() in compression.suffixes:
            return path.stem
        if path.suffix.lower() in compression.tar_suffixes:
            return f"{path.stem}.tar"
    return name


def read_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Blocks:
    """Yield the decompressed blocks of a file.

    Everything before a damage is yielded, then DamagedFileError is raised. Zeros after the end of the compressed data
    are padding, as of tapes; TrailingBytesError is raised for anything else.
    """
    try:
        with path.open("rb") as file:
            yield from decompress(iter(lambda: file.read(block_bytes), b""), path.name)
    except OSError as error:
        raise DamagedFileError(f"cannot be read ({error.strerror})") from error


def decompress(raw: Iterator[bytes], name: str) -> Blocks:
    """Yield the decompressed blocks of a file or a member of an archive, see `read_blocks`."""
    first = next(raw, b"")
    raw = itertools.chain([first] if first else [], raw)
    compression = compression_of(name, first)
    if compression is None:
        return ((block, len(block)) for block in raw)
    if compression.start is None:
        return _decompress_lz4(raw)
    return _decompress(raw, compression.start, compression.kind)


def _decompress(raw: Iterator[bytes], start: Callable[[], Any], kind: str) -> Blocks:
    """Decompress blocks of a file, which may consist of several compressed streams."""
    stream: Any = None
    n_streams, is_new, used, content = 0, True, 0, bytearray()
    for block in raw:
        for position in range(0, len(block), _SLICE_BYTES):
            rest = block[position : position + _SLICE_BYTES]
            used += len(rest)
            while rest:
                if stream is None:
                    rest = rest.lstrip(b"\0") if n_streams else rest
                    if not rest:
                        break
                    stream, is_new = start(), True
                try:
                    piece = stream.decompress(rest)
                except _ERRORS as error:
                    yield bytes(content), used
                    if n_streams and is_new:
                        raise TrailingBytesError(kind) from error
                    raise DamagedFileError(f"the {kind} data is damaged ({error})") from error
                content += piece
                is_new = is_new and not piece
                rest = stream.unused_data if stream.eof else b""
                if stream.eof:
                    stream, n_streams = None, n_streams + 1
            if len(content) >= BLOCK_BYTES:
                yield bytes(content), used
                content, used = bytearray(), 0
    yield bytes(content), used
    if stream is not None:
        raise DamagedFileError(f"the file ends in the middle of its {kind} data")


def _decompress_lz4(raw: Iterator[bytes]) -> Blocks:
    import pyarrow

    file = BlockReader((block, len(block)) for block in raw)
    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "lz4")
    used = 0
    while True:
        try:
            content = stream.read(_LZ4_BYTES)
        except OSError as error:
            if "Truncated" in str(error):
                raise DamagedFileError("the file ends in the middle of its lz4 data") from error
            raise DamagedFileError(f"the lz4 data is damaged, or something follows its end ({error})") from error
        if not content:
            return
        yield content, file.used - used
        used = file.used


class BlockReader(io.RawIOBase):
    """A file that is read from blocks, from the beginning to the end."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks, self._block = blocks, memoryview(b"")
        self.used = 0
        """Bytes of the file below that were used so far."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._block:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._block, self.used = memoryview(block[0]), self.used + block[1]
        n = min(len(buffer), len(self._block))
        buffer[:n] = self._block[:n]
        self._block = self._block[n:]
        return n


def read_all(blocks: Blocks, limit: int) -> tuple[bytes, str]:
    """Return the whole content, and what is to be said of bytes after its end.

    Raises DamagedFileError, of which TooLongError for more than `limit` bytes.
    """
    content = bytearray()
    try:
        for block, _ in blocks:
            content += block
            if len(content) > limit:
                raise TooLongError(limit)
    except TrailingBytesError as error:
        return bytes(content), str(error)
    return bytes(content), ""


def read_head(path: Path, size: int) -> bytes:
    """Return the first decompressed bytes of a file, as far as it can be read."""
    head = bytearray()
    try:
        for block, _ in read_blocks(path, size):
            head += block
            if len(head) >= size:
                break
    except DamagedFileError:
        pass
    return bytes(head[:size])
