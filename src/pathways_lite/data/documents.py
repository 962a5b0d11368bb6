"""The common types of all sources: documents, input chunks that documents are read from, and skipped input."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pathways_lite.console import escape_controls


class Document(NamedTuple):
    """A text with its id, domain and group."""

    id: str
    domain: str
    group: str  # documents of one group are all held out or all in training
    text: str


class Skipped(NamedTuple):
    """Input that holds no document: one sentence with the file, the line where there are lines, and the reason."""

    sentence: str
    documents: int = 1  # that were lost with it, as far as that is known


class InputChunk(Protocol):
    """A picklable part of the input, small enough for one worker. The same input always gives the same chunks."""

    @property
    def size(self) -> int:
        """Approximate number of bytes of text in the chunk."""
        ...

    @property
    def input_bytes(self) -> int:
        """Number of bytes of the input files that the chunk covers, to measure progress."""
        ...

    def read(self) -> Iterator[Document | Skipped]:
        """Yield the documents in order. Never raises for bad input."""
        ...


@dataclass(frozen=True)
class BadChunk:
    """A part of the input that was already unreadable when the input was split into chunks."""

    skipped: Skipped
    size: int = 0
    input_bytes: int = 0

    def read(self) -> Iterator[Document | Skipped]:
        yield self.skipped


def printable(text: str) -> str:
    """Return `text` in one line with control characters, and bytes of file names that are not UTF-8, as escapes."""
    return escape_controls(utf8_name(text), one_line=True)


def utf8_name(name: str) -> str:
    """Return a file name with bytes that are not UTF-8 as escapes: `caf\\xe9` of a Latin-1 name."""
    return re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", name)


def check_text(text: str, where: str) -> Skipped | None:
    """Return why `text`, read from `where`, cannot be a document; None if it can."""
    if not text:
        return Skipped(f"{where}: the text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return Skipped(
            f"{where}: the text has half a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start}, "
            f"which is no character"
        )
    return None


def decode_utf8(content: bytes, where: str) -> str | Skipped:
    """Decode `content`, without a byte order mark; return why if it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Skipped(f"{where}: not UTF-8 (byte 0x{error.object[error.start]:02x} at offset {error.start})")
