"""Read documents from the rows of CSV and TSV files."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pathways_lite.data.compressed import Blocks, DamagedFileError, TooLongError, TrailingBytesError
from pathways_lite.data.documents import BadChunk, Document, InputChunk, Skipped
from pathways_lite.data.records import CHUNK_BYTES, Origin, wrong_columns


@dataclass(frozen=True)
class Dialect:
    """How a CSV or TSV file separates and quotes its fields."""

    delimiter: str
    is_quoted: bool

    def reader(self, lines: Iterator[str], limit: int) -> Iterator[list[str]]:
        csv.field_size_limit(limit)
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.is_quoted else csv.QUOTE_NONE
        return csv.reader(lines, delimiter=self.delimiter, quoting=quoting)


@dataclass(frozen=True)
class TableRows:
    """A chunk of whole rows of a CSV or TSV file."""

    origin: Origin
    columns: tuple[str, ...]
    rows: tuple[tuple[int, list[str]], ...]  # each with the line where it begins
    size: int
    input_bytes: int

    def read(self) -> Iterator[Document | Skipped]:
        for line, row in self.rows:
            where = f"{self.origin.where} line {line}"
            if len(row) != len(self.columns):
                yield Skipped(f"{where}: the row has {len(row)} fields, the header {len(self.columns)}")
                continue
            text_field = self.origin.fields.text_field
            record: dict[str, str | bytes | None] = {
                name: value or None for name, value in zip(self.columns, row, strict=True)
            }
            record[text_field] = row[self.columns.index(text_field)].encode("utf-8", "surrogateescape")
            yield self.origin.fields.document(record, self.origin.domain, f"{self.origin.name}:{line}", where)


def table_dialect(head: bytes, text_field: str, is_tsv: bool) -> Dialect:
    """Return the dialect of a CSV or TSV file by its first lines.

    The delimiter of a CSV file is the one by which the header has the text field: comma, semicolon, tab or bar. A TSV
    file has quoted fields only if its first rows are consistent that way, as many programs write quotes as they are.
    """
    lines = head.decode("utf-8-sig", "surrogateescape").splitlines(keepends=True)
    if not is_tsv:
        delimiters = (d for d in ",;\t|" if text_field in next(csv.reader(lines[:1], delimiter=d), []))
        return Dialect(next(delimiters, ","), True)
    try:
        rows = list(csv.reader(lines, delimiter="\t", strict=True))
    except csv.Error:
        return Dialect("\t", False)
    is_consistent = len({len(row) for row in rows if row}) <= 1
    return Dialect("\t", is_consistent and b'\t"' in b"\t" + head.replace(b"\n", b"\t"))


class _Lines:
    """Iterates over lines, counts them, and takes some back."""

    def __init__(self, blocks: Blocks, limit: int) -> None:
        self._lines = _decoded_lines(blocks, limit)
        self._returned: list[tuple[str, int]] = []
        self.taken: list[tuple[str, int]] = []
        """Lines since this list was last cleared, each with the bytes of the file that it used."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.taken.append(self._returned.pop() if self._returned else next(self._lines))
        return self.taken[-1][0]

    def give_back(self, lines: list[tuple[str, int]]) -> None:
        self._returned += reversed(lines)


def _decoded_lines(blocks: Blocks, limit: int) -> Iterator[tuple[str, int]]:
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    rest, used = "", 0
    trailing: TrailingBytesError | None = None
    try:
        for block, block_used in blocks:
            used += block_used
            *lines, rest = (rest + decode(block)).split("\n")
            for line in lines:
                yield f"{line}\n", used
                used = 0
            if len(rest) > limit:
                raise TooLongError(limit)
    except TrailingBytesError as error:
        trailing = error
    if rest:
        yield rest, used
    if trailing:
        raise trailing


def table_chunks(blocks: Blocks, origin: Origin, dialect: Dialect) -> Iterator[InputChunk]:
    """Yield the chunks of a CSV or TSV file with a header; rows that cannot be read are left out one by one."""
    fields, lines = origin.fields, _Lines(blocks, origin.fields.max_document_bytes)
    reader = dialect.reader(lines, fields.max_document_bytes)
    rows: list[tuple[int, list[str]]] = []
    columns: tuple[str, ...] = ()
    line, size, used = 1, 0, 0
    damage: Skipped | None = None
    while damage is None:
        lines.taken.clear()
        problem = ""
        row: list[str] = []
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            problem = str(error)
        except TrailingBytesError as error:
            damage = Skipped(f"{origin.where}: {error}", 0)
            continue
        except DamagedFileError as error:
            damage = Skipped(f"{origin.where} line {line}: {error}; this row and all after it are lost")
            continue
        taken = list(lines.taken)
        if not columns and not problem:
            columns = tuple(name.strip() for name in row)
            if (n := columns.count(fields.text_field)) != 1:
                yield BadChunk(Skipped(f"{origin.where}: {wrong_columns(columns, fields.text_field, n)}"))
                return
        elif problem or (len(row) != len(columns) and len(taken) > 1):
            # A quote without its end makes one row of many: leave out its first line only.
            lines.give_back(taken[1:])
            taken = taken[:1]
            problem = problem or "a quote without its end"
            if rows:
                yield TableRows(origin, columns, tuple(rows), size, used)
                rows, size, used = [], 0, 0
            yield BadChunk(Skipped(f"{origin.where} line {line}: not a row ({problem})"))
            reader = dialect.reader(lines, fields.max_document_bytes)
        elif row:
            rows.append((line, row))
            size += sum(map(len, row))
        line, used = line + len(taken), used + sum(n for _, n in taken)
        if size >= CHUNK_BYTES:
            yield TableRows(origin, columns, tuple(rows), size, used)
            rows, size, used = [], 0, 0
    if rows:
        yield TableRows(origin, columns, tuple(rows), size, used)
    if damage:
        yield BadChunk(damage)
    elif not columns:
        yield BadChunk(Skipped(f"{origin.where}: the file is empty"))
