"""Split a file into input chunks, whatever it holds. `file_formats` recognizes that, other modules read it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pathways_lite.data.archives import Member, tar_members, zip_members
from pathways_lite.data.compressed import Blocks, DamagedFileError, decompress, read_all, read_blocks, read_head
from pathways_lite.data.csv_files import table_chunks, table_dialect
from pathways_lite.data.documents import (
    BadChunk,
    Document,
    InputChunk,
    Skipped,
    check_text,
    decode_utf8,
    printable,
    utf8_name,
)
from pathways_lite.data.file_formats import HEAD_BYTES, Recognized, default_domain, recognize, recognize_content
from pathways_lite.data.json_files import json_line_chunks, json_value_chunks
from pathways_lite.data.parquet import ArrowFile, parquet_chunks
from pathways_lite.data.records import CHUNK_BYTES, Fields, Origin

READING = 2
"""Version of how files are read: an unfinished build that read its files otherwise is not continued."""


@dataclass(frozen=True)
class InputFile:
    """A file of a source, with a name for its documents' ids that does not depend on where the file is."""

    path: Path
    name: str
    domain: str  # of a plain text file

    def state(self) -> tuple[str, int, int]:
        """Return name, size and time of the last change, which tell if the file was changed."""
        stat = self.path.stat()
        return self.name, stat.st_size, stat.st_mtime_ns


def file_chunks(file: InputFile, fields: Fields) -> Iterator[InputChunk]:
    """Yield the chunks of a file."""
    where, path = printable(str(file.path)), file.path
    recognized = recognize(path, fields.format)
    origin = Origin(where, file.name, utf8_name(default_domain(path)), fields)
    match recognized.format:
        case None:
            yield BadChunk(Skipped(f"{where}: {recognized.reason}"), input_bytes=path.stat().st_size)
        case "text":
            yield TextFile(path, file.name, file.domain, path.stat().st_size, fields.max_document_bytes)
        case "parquet":
            yield from parquet_chunks(path, origin)
        case "arrow":
            yield ArrowFile(path, origin, path.stat().st_size)
        case "tar":
            yield from _archive_chunks(tar_members(read_blocks(path)), file, fields)
        case "zip":
            yield from _archive_chunks(zip_members(path), file, fields)
        case _:
            yield from _record_chunks(recognized, read_blocks(path), read_head(path, HEAD_BYTES), origin)


def _record_chunks(recognized: Recognized, blocks: Blocks, head: bytes, origin: Origin) -> Iterator[InputChunk]:
    """Yield the chunks of JSON, CSV or TSV content, of which `head` is the beginning."""
    if recognized.format == "json":
        yield from (json_line_chunks if recognized.layout == "lines" else json_value_chunks)(blocks, origin)
    else:
        whole_lines = head[: head.rfind(b"\n") + 1] or head
        dialect = table_dialect(whole_lines, origin.fields.text_field, recognized.format == "tsv")
        yield from table_chunks(blocks, origin, dialect)


# ---- text ----


@dataclass(frozen=True)
class TextFile:
    """A text file: one document."""

    path: Path
    name: str
    domain: str
    size: int
    max_bytes: int

    @property
    def input_bytes(self) -> int:
        return self.size

    def read(self) -> Iterator[Document | Skipped]:
        where = printable(str(self.path))
        try:
            content, trailing = read_all(read_blocks(self.path), self.max_bytes)
        except DamagedFileError as error:
            yield Skipped(f"{where}: {error}")
            return
        yield from _read_text(content, trailing, where, self.name, self.domain)


@dataclass(frozen=True)
class TextContents:
    """Text files of an archive: one document each."""

    files: tuple[tuple[str, str, bytes, str], ...]  # what errors call it, id, content, what is said of trailing bytes
    domain: str
    size: int
    input_bytes: int

    def read(self) -> Iterator[Document | Skipped]:
        for where, name, content, trailing in self.files:
            yield from _read_text(content, trailing, where, name, self.domain)


def _read_text(content: bytes, trailing: str, where: str, name: str, domain: str) -> Iterator[Document | Skipped]:
    if not content:
        yield Skipped(f"{where}: the file is empty")
        return
    text = decode_utf8(content, where)
    if isinstance(text, Skipped):
        yield text
    else:
        yield check_text(text, where) or Document(name, domain, name, text)
    if trailing:
        yield Skipped(f"{where}: {trailing}", 0)


# ---- archives ----


def _archive_chunks(members: Iterator[Member], file: InputFile, fields: Fields) -> Iterator[InputChunk]:
    """Yield the chunks of the members of an archive; those of small texts together."""
    texts: list[tuple[str, str, bytes, str]] = []
    size, used, is_empty = 0, 0, True

    def collected() -> Iterator[InputChunk]:
        nonlocal texts, size, used
        if texts:
            yield TextContents(tuple(texts), file.domain, size, used)
        texts, size, used = [], 0, 0

    where = printable(str(file.path))
    try:
        for member in members:
            is_empty = False
            text_or_chunks = _member_content(member, f"{where}/{printable(member.name)}", file.name, fields)
            if isinstance(text_or_chunks, tuple):
                texts.append(text_or_chunks)
                size, used = size + len(text_or_chunks[2]), used + member.used
                if size >= CHUNK_BYTES:
                    yield from collected()
            else:
                yield from collected()
                yield from text_or_chunks
    except DamagedFileError as error:
        yield from collected()
        yield BadChunk(Skipped(f"{where}: {error}; this and all after it is lost"))
        return
    yield from collected()
    if is_empty:
        yield BadChunk(Skipped(f"{where}: the archive holds no files"))


def _member_content(
    member: Member, where: str, archive_name: str, fields: Fields
) -> tuple[str, str, bytes, str] | Iterator[InputChunk]:
    """Return a text member as an entry of `TextContents`, or the chunks of any other member."""
    name = f"{archive_name}/{utf8_name(member.name)}"
    if member.reason:
        return iter([BadChunk(Skipped(f"{where}: {member.reason}"))])
    blocks = decompress(member.content, member.name)
    head = bytearray()
    try:
        while len(head) < HEAD_BYTES and (block := next(blocks, None)) is not None:
            head += block[0]
    except DamagedFileError as error:
        blocks = _raise(error)
    content: Blocks = itertools.chain([(bytes(head), member.used)], blocks)
    is_whole = len(head) < HEAD_BYTES
    recognized = recognize_content(member.name, bytes(head[:HEAD_BYTES]), is_whole=is_whole, wanted=fields.format)
    if recognized.format == "text":
        try:
            return where, name, *read_all(content, fields.max_document_bytes)
        except DamagedFileError as error:
            return iter([BadChunk(Skipped(f"{where}: {error}"), input_bytes=member.used)])
    if recognized.format in ("json", "csv", "tsv"):
        origin = Origin(where, name, utf8_name(default_domain(Path(member.name))), fields)
        return _record_chunks(recognized, content, bytes(head), origin)
    reason = recognized.reason or f"{recognized} inside an archive is not read; unpack the archive"
    return iter([BadChunk(Skipped(f"{where}: {reason}"), input_bytes=member.used)])


def _raise(error: DamagedFileError) -> Blocks:
    raise error
    yield b"", 0
