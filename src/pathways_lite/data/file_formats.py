"""Recognize what a file holds: by its content, and by its ending only where the content leaves it open."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pathways_lite.data.compressed import compression_of, read_head, strip_compression
from pathways_lite.data.records import Format

HEAD_BYTES = 1 << 16

_JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
_SHARD = re.compile(r"[-_.]?\d+-of-\d+$")
_SPARK_PART = re.compile(r"part-(r-|m-)?\d+(-.*)?$")
_LFS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_LFS_BYTES = 1024  # the specification's bound of a pointer
# Other data that lies beside text, by its first bytes.
_BINARY = (
    (b"%PDF-", "a PDF"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "a program (ELF)"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive, which is not read; unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive, which is not read; unpack it"),
    (b"\x1f\x9d", "compressed by compress (.Z), which is not read; decompress it with uncompress"),
    (b"LZIP", "compressed by lzip, which is not read; decompress it with lzip -d"),
    (b"\x89LZO", "compressed by lzop, which is not read; decompress it with lzop -d"),
    (b"\x02\x21\x4c\x18", "compressed by an old lz4, whose format is not read; decompress it with lz4 -d"),
    (b"\xff\x06\0\0sNaPpY", "compressed by Snappy, which is not read; decompress it"),
    (b"Obj\x01", "an Avro file, which is not read; convert it to Parquet or JSON lines"),
    (b"ORC", "an ORC file, which is not read; convert it to Parquet or JSON lines"),
)
_UNREAD_SUFFIXES = {
    ".br": "compressed by Brotli, which is not read; decompress it with brotli -d",
    ".snappy": "compressed by Snappy, which is not read; decompress it",
}


@dataclass(frozen=True)
class Recognized:
    """What a file holds: a format, or the reason why it holds no documents."""

    format: Format | None
    layout: Literal["lines", "values"] | None = None  # of JSON
    reason: str = ""
    compression: str = ""

    def __str__(self) -> str:
        names = {"json": "JSON lines" if self.layout == "lines" else "JSON objects", "csv": "CSV", "tsv": "TSV"}
        names |= {"parquet": "Parquet", "arrow": "Arrow", "tar": "tar archives", "zip": "zip archives"}
        name = names.get(self.format or "", self.format or "")
        return f"{name} ({self.compression})" if self.compression else name


def split_name(name: str) -> tuple[str, str]:
    """Split a file name, without the ending of its compression, into stem and suffix: `x`, `.jsonl` of `x.jsonl.gz`.

    A number of the file among others belongs to the stem: `x-00000-of-00010`, `.jsonl` of `x.jsonl-00000-of-00010`.
    """
    path = Path(strip_compression(name))
    suffix = path.suffix
    if match := _SHARD.search(suffix):
        number, suffix = match[0], suffix[: match.start()]
        return (path.stem + number, suffix.lower()) if len(suffix) > 1 else (path.name, "")
    return path.stem, suffix.lower()


def default_domain(path: Path) -> str:
    """Return the domain of records that name none: the file's name, without its number among the files of a set."""
    stem = split_name(path.name)[0]
    if _SPARK_PART.match(stem):
        return path.absolute().parent.name or "part"
    return _SHARD.sub("", stem) or stem


def recognize(path: Path, wanted: Format | None = None) -> Recognized:
    """Return what the file holds, as `wanted` if that is given. Looks at the first 64 KiB of its content."""
    try:
        stat = path.stat()
    except OSError as error:
        return Recognized(None, reason=f"cannot be read ({error.strerror})")
    return _recognize(path, wanted, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(1 << 17)  # a build asks three times
def _recognize(path: Path, wanted: Format | None, *state: int) -> Recognized:
    try:
        with path.open("rb") as file:
            start = file.read(HEAD_BYTES)
    except OSError as error:
        return Recognized(None, reason=f"cannot be read ({error.strerror})")
    compression = compression_of(path.name, start)
    if compression is None:
        return recognize_content(path.name, start, is_whole=len(start) < HEAD_BYTES, wanted=wanted)
    head = read_head(path, HEAD_BYTES)
    is_whole = len(head) < HEAD_BYTES
    return recognize_content(path.name, head, is_whole=is_whole, wanted=wanted, compression=compression.kind)


def recognize_content(
    name: str, head: bytes, *, is_whole: bool, wanted: Format | None = None, compression: str = ""
) -> Recognized:
    """Return what decompressed content holds, by its first bytes and the name of its file."""

    def recognized(format_: Format, layout: Literal["lines", "values"] | None = None) -> Recognized:
        return Recognized(format_, layout, compression=compression)

    suffix = split_name(name)[1]
    if not head and not compression:
        return Recognized(None, reason="the file is empty")
    if is_whole and len(head) < _LFS_BYTES and head.startswith(_LFS):
        return Recognized(None, reason="a pointer of Git LFS in place of the data; get the data with git lfs pull")
    if compression and (inner := compression_of("", head)) is not None:
        return Recognized(None, reason=f"{inner.kind} data inside {compression} data; decompress it once")
    if (container := _container(suffix, head)) in ("parquet", "arrow", "zip") and compression:
        return Recognized(None, reason=f"a {container} file inside {compression} data; decompress it")
    if container in ("tar", "zip"):
        return recognized(container)
    if wanted == "json":
        return recognized("json", _json_layout(head, is_whole) or "lines")
    if wanted is not None:
        return recognized(wanted)
    if container is not None:
        return recognized(container)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return Recognized(None, reason="a zip container, not text; give it the ending .zip to read what is inside")
    for magic, description in _BINARY:
        # The shorter ones could be the beginning of a text.
        if head.startswith(magic) and (len(magic) > 4 or _is_binary(head)):
            return Recognized(None, reason=description)
    if suffix in _UNREAD_SUFFIXES and _is_binary(head):
        return Recognized(None, reason=_UNREAD_SUFFIXES[suffix])
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Recognized(None, reason="UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW_FILE")
    if suffix in (".csv", ".tsv"):
        return recognized("csv" if suffix == ".csv" else "tsv")
    layout = _json_layout(head, is_whole)
    if suffix in _JSON_SUFFIXES:
        return recognized("json", layout or ("values" if suffix == ".json" else "lines"))
    if layout and _is_surely_json(head, layout, is_whole):
        return recognized("json", layout)
    if _is_binary(head):
        return Recognized(None, reason="binary data, not text")
    return recognized("text")


def _container(suffix: str, head: bytes) -> Literal["parquet", "arrow", "tar", "zip"] | None:
    if head.startswith(b"PAR1") or suffix == ".parquet":
        return "parquet"
    if head.startswith(b"ARROW1") or suffix == ".arrow":
        return "arrow"
    if head[257:262] == b"ustar" or suffix == ".tar":
        return "tar"
    return "zip" if suffix == ".zip" else None


def _is_binary(head: bytes) -> bool:
    """Say whether bytes are not text: more than a tenth are control characters, or some are and it is not UTF-8."""
    controls = sum(head.count(bytes([byte])) for byte in range(32) if byte not in b"\b\t\n\f\r\x1b")
    if controls > len(head) / 10:
        return True
    try:
        head[:-4].decode()  # a character may be cut off at the end
    except UnicodeDecodeError:
        return controls > 0
    return False


def _json_layout(head: bytes, is_whole: bool) -> Literal["lines", "values"] | None:
    """Return how the JSON objects in `head` are laid out: one per line, or otherwise; None if there are none."""
    text = head.decode("utf-8-sig", "replace").lstrip("\ufeff \t\r\n,")
    if re.match(r"\[\s*(\{|\]\s*$)", text):
        return "values"
    lines = [line for line in text.split("\n") if line.strip()]
    whole_lines = lines if is_whole else lines[:-1]
    if any(map(_is_object, whole_lines[:20])):
        return "lines"
    begins_object = re.match(r'\{\s*"([^"\\]|\\.)*"\s*:', text) is not None
    if begins_object and not is_whole and len(lines) == 1:
        return "lines"  # the first line is longer than the head
    if not begins_object or len(lines) < 2:
        return None
    try:
        is_long = "\n" in text[: json.JSONDecoder().raw_decode(text)[1]]
    except (ValueError, RecursionError):
        is_long = not is_whole
    return "values" if is_long else None


def _is_object(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(value)


def _is_surely_json(head: bytes, layout: str, is_whole: bool) -> bool:
    """Say whether content is JSON although its name does not say so: all it begins with are objects."""
    text = head.decode("utf-8-sig", "replace").strip()
    lines = [line for line in text.split("\n") if line.strip()]
    whole_lines = lines if is_whole else lines[:-1]
    if layout == "lines":
        return all(map(_is_object, whole_lines[:2]))
    if not text.startswith("["):
        return False  # one object on several lines, as of a program's settings
    try:
        json.JSONDecoder().raw_decode(text[1:].lstrip())
    except (ValueError, RecursionError):
        return False
    return True
