"""What sources give: documents, pieces of input that documents are read from, and sentences about bad input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Document(NamedTuple):
    """A text with its name."""

    id: str
    domain: str
    group: str  # documents of one group are all held out or all in training
    text: str


class Skipped(NamedTuple):
    """Input that gave no document: one sentence with the file, the line where there are lines, and the reason."""

    sentence: str


class InputChunk(Protocol):
    """A part of the input, small enough for one worker; picklable. The same input always falls into the same pieces."""

    @property
    def size(self) -> int:
        """About how many bytes of text it holds."""
        ...

    @property
    def input_bytes(self) -> int:
        """Bytes of the input files that it stands for, as a measure of progress."""
        ...

    def read(self) -> Iterator[Document | Skipped]:
        """Its documents in order. Never raises for bad input."""
        ...


@dataclass(frozen=True)
class BadChunk:
    """A part of the input that was found to be bad when the pieces were made."""

    skipped: Skipped
    size: int = 0
    input_bytes: int = 0

    def read(self) -> Iterator[Document | Skipped]:
        yield self.skipped


def check_text(text: str, where: str) -> Skipped | None:
    """Why `text`, found at `where`, is no text of a document; None if it is."""
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
    """`content` as text, without the byte order mark that it may begin with."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Skipped(f"{where}: not UTF-8 (byte 0x{error.object[error.start]:02x} at offset {error.start})")
