"""Documents in records: objects of JSON files, rows of CSV, TSV, Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pathways_lite.data.compressed import MAX_DOCUMENT_BYTES, TooLongError
from pathways_lite.data.documents import Document, Skipped, check_text, decode_utf8

CHUNK_BYTES = 1 << 18
"""Text of a chunk: small enough to sample evenly, large enough to cost nothing."""

Format = Literal["text", "json", "csv", "tsv", "parquet", "arrow", "tar", "zip"]


@dataclass(frozen=True)
class Fields:
    """How files are read, and the names of the fields that hold text, domain and id in records."""

    domain: str | None = None  # of all documents; None: the record's domain field, or else the file's name
    text_field: str = "text"
    domain_field: str = "domain"
    id_field: str = "id"
    format: Format | None = None  # of all files; None: as their content says
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    strict: bool = False  # a domain or id field that was named must be in every record; to check the names

    def to_json(self) -> dict[str, Any]:
        """Return the fields; those that earlier versions did not have only if they are set."""
        later = {"format": None, "max_document_bytes": MAX_DOCUMENT_BYTES, "strict": False}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}

    def document(self, record: Any, domain: str, name: str, where: str) -> Document | Skipped:
        """Return the document in `record`.

        Args:
          domain: of the document, if neither these fields nor the record has one.
          name: its id, if the record has none.
          where: what errors call it.
        """
        if not isinstance(record, dict):
            return Skipped(f"{where}: expected an object with a field {self.text_field!r}, found {_kind(record)}")
        if (absent := self._absent_field(record)) is not None:
            fields = ", ".join(map(str, list(record)[:8])) or "none"
            name, option = absent
            return Skipped(f"{where}: there is no field {name!r} (fields: {fields}); name it with {option}")
        text = record[self.text_field]
        if isinstance(text, bytes):  # of Parquet files whose text has no logical type
            text = decode_utf8(text, where)
            if isinstance(text, Skipped):
                return text
        if not isinstance(text, str):
            return Skipped(f"{where}: the field {self.text_field!r} is {_kind(text)}, not text")
        if len(text) > self.max_document_bytes:
            return Skipped(f"{where}: {TooLongError(self.max_document_bytes)}")
        domain = self.domain or record.get(self.domain_field) or domain
        if not isinstance(domain, str):
            return Skipped(f"{where}: the field {self.domain_field!r} is {_kind(domain)}, not text")
        record_id = record.get(self.id_field)
        id_ = name if record_id is None else str(record_id)
        bad = check_text(text, where) or check_text(domain, where) or check_text(id_ or name, where)
        return bad or Document(id_ or name, domain, id_ or name, text)

    def _absent_field(self, record: dict[Any, Any]) -> tuple[str, str] | None:
        """Return a field that a record must have and has not, and the option that names it."""
        if self.text_field not in record:
            return self.text_field, "--text-field"
        for name, default, option in (
            (self.domain_field, Fields.domain_field, "--domain-field"),
            (self.id_field, Fields.id_field, "--id-field"),
        ):
            if self.strict and name != default and name not in record:
                return name, option
        return None


def _kind(value: Any) -> str:
    """Return the name of a JSON value's type, for an error."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null" if value is None else type(value).__name__)


@dataclass(frozen=True)
class Origin:
    """The file that records are read from."""

    where: str  # what errors call it
    name: str  # the beginning of the ids of records without one
    domain: str  # of records without one
    fields: Fields


def wrong_columns(columns: Sequence[str], text_field: str, n: int) -> str:
    """Return what is wrong with a table that has `n` columns for the text instead of one."""
    shown = ", ".join(columns[:8]) or "none"
    if n:
        return f"there are {n} columns {text_field!r} (columns: {shown}); name one that is there once with --text-field"
    return (
        f"there is no column {text_field!r} (columns: {shown}); name it with --text-field, or read the file as text "
        "with --format text"
    )
