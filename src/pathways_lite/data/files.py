"""Read documents from text, JSONL and Parquet files, plain or compressed. `sources` picks the reader of each file."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from pathways_lite.data.documents import BadChunk, Document, InputChunk, Skipped, check_text, decode_utf8

_BLOCK_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 18  # of JSONL: small enough to sample evenly, large enough to cost nothing

# ---- files that may be compressed ----


class DamagedFileError(Exception):
    """The rest of a file cannot be read; the message says why, without the file's name."""


def read_blocks(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield decompressed blocks of a file and the number of bytes of the file that each one used.

    `.gz` and `.zst` are decompressed. Everything before a damage is yielded, then DamagedFileError is raised. The gzip
    module would lose the last block before the damage, and zstandard's reader does not detect it.
    """
    decompressors: dict[str, Callable[[], Any]] = {
        ".gz": lambda: zlib.decompressobj(wbits=31),
        ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
    }
    make_decompressor = decompressors.get(path.suffix)
    try:
        with path.open("rb") as file:
            raw = iter(lambda: file.read(_BLOCK_BYTES), b"")
            if make_decompressor is None:
                yield from ((block, len(block)) for block in raw)
            else:
                yield from _decompress(raw, make_decompressor, path.suffix[1:])
    except OSError as error:
        raise DamagedFileError(f"cannot be read ({error.strerror})") from error


def _decompress(raw: Iterator[bytes], make_decompressor: Callable[[], Any], kind: str) -> Iterator[tuple[bytes, int]]:
    """Decompress blocks of a file, which may consist of several compressed streams."""
    stream = None
    for block in raw:
        used, rest = len(block), block
        while rest:
            stream = stream or make_decompressor()
            try:
                content = stream.decompress(rest)
            except (zlib.error, zstandard.ZstdError) as error:
                raise DamagedFileError(f"the {kind} data is damaged ({error})") from error
            rest = stream.unused_data
            if stream.eof:
                stream = None
            yield content, used
            used = 0
    if stream is not None:
        raise DamagedFileError(f"the file ends in the middle of its {kind} data")


def read_all(path: Path) -> bytes:
    """Return the whole decompressed content. Raises DamagedFileError."""
    return b"".join(block for block, _ in read_blocks(path))


def bare_name(path: Path) -> tuple[str, str]:
    """Split a file name, without the suffix of its compression, into stem and suffix: `x`, `.jsonl` of `x.jsonl.gz`."""
    inner = Path(path.stem) if path.suffix in (".gz", ".zst") else Path(path.name)
    return inner.stem, inner.suffix.lower()


# ---- records ----


@dataclass(frozen=True)
class Fields:
    """Names of the fields that hold text, domain and id in the records of JSONL and Parquet files."""

    domain: str | None = None  # of all documents; None: the record's domain field, or else the file's name
    text_field: str = "text"
    domain_field: str = "domain"
    id_field: str = "id"

    def document(self, record: Any, path: Path, name: str, where: str) -> Document | Skipped:
        """Return the document in `record`. `name` is its id if the record has none; errors call it `where`."""
        if not isinstance(record, dict):
            return Skipped(f"{where}: expected an object with a field {self.text_field!r}, found {_kind(record)}")
        if self.text_field not in record:
            fields = ", ".join(map(str, list(record)[:8])) or "none"
            return Skipped(f"{where}: there is no field {self.text_field!r} (fields: {fields})")
        text = record[self.text_field]
        if not isinstance(text, str):
            return Skipped(f"{where}: the field {self.text_field!r} is {_kind(text)}, not text")
        domain = self.domain or record.get(self.domain_field) or bare_name(path)[0]
        if not isinstance(domain, str):
            return Skipped(f"{where}: the field {self.domain_field!r} is {_kind(domain)}, not text")
        record_id = record.get(self.id_field)
        id_ = name if record_id is None else str(record_id)
        bad = check_text(text, where) or check_text(domain, where) or check_text(id_ or name, where)
        return bad or Document(id_ or name, domain, id_ or name, text)


def _kind(value: Any) -> str:
    """Return the name of a JSON value's type, for an error."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null" if value is None else type(value).__name__)


# ---- chunks ----


@dataclass(frozen=True)
class TextFile:
    """A text file: one document."""

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
        except DamagedFileError as error:
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
class JsonlLines:
    """A chunk of whole lines of a JSONL file."""

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
    """Yield the chunks of a JSONL file, plain or compressed. Whole lines before a damage are kept."""
    line, used, empty = 1, 0, True
    pending = bytearray()
    damage = ""
    try:
        for block, block_used in read_blocks(path):
            used += block_used
            empty = empty and not block
            pending += block
            if len(pending) < _CHUNK_BYTES or b"\n" not in block:
                continue
            whole_lines, _, rest = bytes(pending).rpartition(b"\n")
            pending = bytearray(rest)
            for content in _split_lines(whole_lines, _CHUNK_BYTES):
                yield JsonlLines(path, name, fields, line, content, used)
                line, used = line + content.count(b"\n") + 1, 0
    except DamagedFileError as error:
        # The damaged line is not whole.
        del pending[pending.rfind(b"\n") + 1 :]
        damage = f"{path} line {line + pending.count(b'\n')}: {error}; this line and all after it are lost"
    if pending:
        yield JsonlLines(path, name, fields, line, bytes(pending), used)
    if damage:
        yield BadChunk(Skipped(damage))
    elif empty:
        yield BadChunk(Skipped(f"{path}: the file is empty"))


def _split_lines(content: bytes, size: int) -> Iterator[bytes]:
    """Split at newlines into chunks of about `size` bytes; the newlines between chunks are left out."""
    start = 0
    while start <= len(content):
        stop = content.find(b"\n", start + size)
        if stop < 0:
            stop = len(content)
        yield content[start:stop]
        start = stop + 1


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file."""

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
    """Yield one chunk per row group."""
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
