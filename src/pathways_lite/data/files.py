"""Documents from text, JSONL and Parquet files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from pathways_lite.data.documents import BadChunk, Document, InputChunk, Skipped, check_text, decode_utf8

# Reading files that may be compressed, up to the point where they are damaged.


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


_LINES_BYTES = 1 << 18  # of JSONL per piece: fine enough to sample, coarse enough not to cost


@dataclass(frozen=True)
class Fields:
    """How documents are found in the records of JSONL and Parquet, and in which domain they are."""

    domain: str | None = None  # of all documents; None: what the record says, or else the file's name
    text_field: str = "text"
    domain_field: str = "domain"
    id_field: str = "id"

    def document(self, record: Any, path: Path, name: str, where: str) -> Document | Skipped:
        """The document in `record`; `name` is its id where the record has none, `where` is what errors call it."""
        if not isinstance(record, dict):
            return Skipped(f"{where}: expected an object with a field {self.text_field!r}, found {_kind(record)}")
        if self.text_field not in record:
            found = ", ".join(map(str, list(record)[:8])) or "none"
            return Skipped(f"{where}: there is no field {self.text_field!r} (fields: {found})")
        text = record[self.text_field]
        if not isinstance(text, str):
            return Skipped(f"{where}: the field {self.text_field!r} is {_kind(text)}, not text")
        domain = self.domain or record.get(self.domain_field) or bare_name(path)[0]
        if not isinstance(domain, str):
            return Skipped(f"{where}: the field {self.domain_field!r} is {_kind(domain)}, not text")
        given = record.get(self.id_field)
        id_ = name if given is None else str(given)
        bad = check_text(text, where) or check_text(domain, where) or check_text(id_ or name, where)
        return bad or Document(id_ or name, domain, id_ or name, text)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null" if value is None else type(value).__name__)


@dataclass(frozen=True)
class TextFile:
    """One file that is one document."""

    path: Path
    name: str
    domain: str
    size: int

    @property
    def input_bytes(self) -> int:
        return self.size

    def read(self) -> Iterator[Document | Skipped]:
        where = str(self.path)
        try:
            content = read_all(self.path)
        except DamagedError as error:
            yield Skipped(f"{where}: {error}")
            return
        if not content:
            yield Skipped(f"{where}: the file is empty")
            return
        text = decode_utf8(content, where)
        if isinstance(text, Skipped):
            yield text
        else:
            yield check_text(text, where) or Document(self.name, self.domain, self.name, text)


@dataclass(frozen=True)
class Lines:
    """Some whole lines of a JSONL file."""

    path: Path
    name: str
    fields: Fields
    first_line: int  # counted from 1
    content: bytes
    input_bytes: int

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self) -> Iterator[Document | Skipped]:
        for number, line in enumerate(self.content.split(b"\n"), self.first_line):
            if line.strip():
                yield self._document(line, number)

    def _document(self, line: bytes, number: int) -> Document | Skipped:
        where = f"{self.path} line {number}"
        text = decode_utf8(line, where)
        if isinstance(text, Skipped):
            return text
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            return Skipped(f"{where}: not JSON ({error})")
        return self.fields.document(record, self.path, f"{self.name}:{number}", where)


def jsonl_chunks(path: Path, name: str, fields: Fields) -> Iterator[InputChunk]:
    """Pieces of a JSONL file, plain or compressed. What comes before a damage is kept."""
    line, used, empty = 1, 0, True
    waiting = bytearray()
    damage = ""
    try:
        for block, block_used in read_blocks(path):
            used += block_used
            empty = empty and not block
            waiting += block
            if len(waiting) < _LINES_BYTES or b"\n" not in block:
                continue
            whole, _, rest = bytes(waiting).rpartition(b"\n")
            waiting = bytearray(rest)
            for content in _cut(whole, _LINES_BYTES):
                yield Lines(path, name, fields, line, content, used)
                line, used = line + content.count(b"\n") + 1, 0
    except DamagedError as error:
        # The line in which the damage lies is no whole line.
        del waiting[waiting.rfind(b"\n") + 1 :]
        damage = f"{path} line {line + waiting.count(b'\n')}: {error}; this line and all after it are lost"
    if waiting:
        yield Lines(path, name, fields, line, bytes(waiting), used)
    if damage:
        yield BadChunk(Skipped(damage))
    elif empty:
        yield BadChunk(Skipped(f"{path}: the file is empty"))


def _cut(content: bytes, size: int) -> Iterator[bytes]:
    """Whole lines of about `size` bytes at a time; the newlines between the parts are left out."""
    at = 0
    while at <= len(content):
        end = content.find(b"\n", at + size)
        if end < 0:
            end = len(content)
        yield content[at:end]
        at = end + 1


@dataclass(frozen=True)
class RowGroup:
    """One row group of a Parquet file."""

    path: Path
    name: str
    fields: Fields
    index: int
    first_row: int
    size: int
    input_bytes: int

    def read(self) -> Iterator[Document | Skipped]:
        import pyarrow
        import pyarrow.parquet

        wanted = [self.fields.text_field, self.fields.domain_field, self.fields.id_field]
        row = self.first_row
        try:
            file = pyarrow.parquet.ParquetFile(self.path)
            columns = [column for column in wanted if column in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=1024, row_groups=[self.index], columns=columns):
                for record in batch.to_pylist():
                    where = f"{self.path} row {row}"
                    yield self.fields.document(record, self.path, f"{self.name}:{row}", where)
                    row += 1
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            yield Skipped(f"{self.path} row {row}: the rest of its row group cannot be read ({_one_line(error)})")


def parquet_chunks(path: Path, name: str, fields: Fields) -> Iterator[InputChunk]:
    """One piece per row group."""
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowException, OSError) as error:
        empty = not path.stat().st_size
        reason = "the file is empty" if empty else f"not a Parquet file ({_one_line(error)})"
        yield BadChunk(Skipped(f"{path}: {reason}"))
        return
    row = 0
    if not metadata.num_rows:
        yield BadChunk(Skipped(f"{path}: the file has no rows"))
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        yield RowGroup(path, name, fields, index, row, group.total_byte_size, group.total_byte_size)
        row += group.num_rows


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
