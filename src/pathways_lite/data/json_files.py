"""Read documents from JSON lines, JSON arrays, and JSON objects one after another."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pathways_lite.data.compressed import Blocks, DamagedFileError, TooLongError, TrailingBytesError
from pathways_lite.data.documents import BadChunk, Document, InputChunk, Skipped, decode_utf8
from pathways_lite.data.records import CHUNK_BYTES, Origin


@dataclass(frozen=True)
class JsonLines:
    """A chunk of a JSON file: one value per line."""

    origin: Origin
    first: int  # number of the first line, or of the first value, counted from 1
    content: bytes
    input_bytes: int
    unit: Literal["line", "value"] = "line"

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self) -> Iterator[Document | Skipped]:
        for number, line in enumerate(self.content.split(b"\n"), self.first):
            if line.strip():
                yield self._document(line, number)

    def _document(self, line: bytes, number: int) -> Document | Skipped:
        where = f"{self.origin.where} {self.unit} {number}"
        text = decode_utf8(line, where)
        if isinstance(text, Skipped):
            return text
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            return Skipped(f"{where}: not JSON ({error})")
        return self.origin.fields.document(record, self.origin.domain, f"{self.origin.name}:{number}", where)


def json_line_chunks(blocks: Blocks, origin: Origin) -> Iterator[InputChunk]:
    """Yield the chunks of a JSON lines file. Whole lines before a damage are kept."""
    limit = origin.fields.max_document_bytes
    line, used, is_empty, is_too_long = 1, 0, True, False
    pending = bytearray()
    damage: Skipped | None = None
    try:
        for block, block_used in blocks:
            used += block_used
            is_empty = is_empty and not block
            if is_too_long:
                _, newline, block = block.partition(b"\n")
                is_too_long, line = not newline, line + len(newline)
            pending += block
            if b"\n" not in block:
                if len(pending) > limit and len(pending) - (start := pending.rfind(b"\n") + 1) > limit:
                    if start:
                        yield JsonLines(origin, line, bytes(pending[: start - 1]), used)
                        line, used = line + pending.count(b"\n", 0, start), 0
                    yield BadChunk(Skipped(f"{origin.where} line {line}: {TooLongError(limit)}"))
                    pending, is_too_long = bytearray(), True
                continue
            if len(pending) < CHUNK_BYTES:
                continue
            whole_lines, _, rest = bytes(pending).rpartition(b"\n")
            pending = bytearray(rest)
            for content in _split_lines(whole_lines, CHUNK_BYTES):
                yield JsonLines(origin, line, content, used)
                line, used = line + content.count(b"\n") + 1, 0
    except TrailingBytesError as error:
        damage = Skipped(f"{origin.where}: {error}", 0)
    except DamagedFileError as error:
        # The damaged line is not whole.
        del pending[pending.rfind(b"\n") + 1 :]
        number = line + pending.count(b"\n")
        damage = Skipped(f"{origin.where} line {number}: {error}; this line and all after it are lost")
    if pending:
        yield JsonLines(origin, line, bytes(pending), used)
    if damage:
        yield BadChunk(damage)
    if is_empty and not (damage and damage.documents):
        yield BadChunk(Skipped(f"{origin.where}: the file is empty"))


def _split_lines(content: bytes, size: int) -> Iterator[bytes]:
    """Split at newlines into chunks of about `size` bytes; the newlines between chunks are left out."""
    start = 0
    while start <= len(content):
        stop = content.find(b"\n", start + size)
        if stop < 0:
            stop = len(content)
        yield content[start:stop]
        start = stop + 1


_BETWEEN_VALUES = re.compile(r"[\s,\[\]]*")


def json_value_chunks(blocks: Blocks, origin: Origin) -> Iterator[InputChunk]:
    """Yield the chunks of a JSON array of objects, or of objects one after another, on any number of lines each."""
    scan = json.JSONDecoder().raw_decode
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    limit = origin.fields.max_document_bytes
    values: list[str] = []
    text, position, first, size, used, wanted = "", 0, 1, 0, 0, 0
    reason = ""
    try:
        for block, block_used in blocks:
            text, position, used = text[position:] + decode(block), 0, used + block_used
            if len(text) < wanted:
                continue
            while True:
                position = _skip_separators(text, position)
                try:
                    stop = scan(text, position)[1]
                except (ValueError, RecursionError):
                    # The rest of the value may follow: try again with twice as much.
                    wanted = 2 * (len(text) - position)
                    break
                values.append(text[position:stop])
                size, position = size + stop - position, stop
                if size >= CHUNK_BYTES:
                    yield _value_chunk(origin, first, values, used)
                    first, values, size, used = first + len(values), [], 0, 0
            if len(text) - position > limit:
                raise TooLongError(limit)
    except TrailingBytesError as error:
        yield BadChunk(Skipped(f"{origin.where}: {error}", 0))
    except DamagedFileError as error:
        reason = str(error)
    while not reason and (position := _skip_separators(text, position)) < len(text):
        try:
            stop = scan(text, position)[1]
        except (ValueError, RecursionError) as error:
            reason = f"not JSON ({error})"
            break
        values.append(text[position:stop])
        position = stop
    if values:
        yield _value_chunk(origin, first, values, used)
    number = first + len(values)
    if reason:
        yield BadChunk(Skipped(f"{origin.where} value {number}: {reason}; this value and all after it are lost"))
    elif number == 1:
        yield BadChunk(Skipped(f"{origin.where}: the file holds no JSON objects"))


def _skip_separators(text: str, position: int) -> int:
    match = _BETWEEN_VALUES.match(text, position)
    return match.end() if match else position


def _value_chunk(origin: Origin, first: int, values: list[str], used: int) -> JsonLines:
    # JSON has newlines between tokens only, where a blank means the same.
    lines = (value.replace("\n", " ").encode("utf-8", "surrogateescape") for value in values)
    return JsonLines(origin, first, b"\n".join(lines), used, "value")
