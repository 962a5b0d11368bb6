"""Sources of text: files, directories, and the Python installation itself, split into input chunks for `build`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pathways_lite.data.documents import BadChunk, InputChunk, printable, utf8_name
from pathways_lite.data.file_formats import split_name
from pathways_lite.data.files import InputFile, file_chunks
from pathways_lite.data.listing import Listing, is_token_store, list_directory
from pathways_lite.data.python_installation import library_files, python_chunks
from pathways_lite.data.records import Fields
from pathways_lite.errors import UserError, similar_path
from pathways_lite.paths import input_path

PYTHON = "python:"
_DOMAIN = re.compile(r"\w[\w .+-]*")


@dataclass(frozen=True)
class Source:
    """A file, a directory (read in the order of its file names), or `python:`.

    What a file holds is recognized by its content: JSON lines and other JSON, CSV, TSV, Parquet, Arrow, or else text;
    compressed or not; alone or in tar and zip archives. Names that begin with a dot are left out.
    """

    address: str
    fields: Fields = Fields()  # noqa: RUF009  frozen
    outputs: tuple[Path, ...] = field(default=(), kw_only=True)  # what is being built, which is no input

    @classmethod
    def parse(cls, text: str, fields: Fields = Fields()) -> Source:  # noqa: B008  frozen
        """Parse `ADDRESS`, or `DOMAIN=ADDRESS` to put all documents into that domain.

        Raises UserError for a name that a domain cannot have.
        """
        domain, equals, address = text.partition("=")
        if not equals or _exists(text):
            return cls(text, fields)
        if _DOMAIN.fullmatch(domain):
            return cls(address, replace(fields, domain=domain))
        if "/" in domain or ":" in domain:  # a path
            return cls(text, fields)
        raise UserError(
            f"{printable(text)}: {printable(domain)!r} cannot be the name of a domain, which begins with a letter, a "
            "digit or _ and goes on with these, blanks, and any of . + -; write e.g. en-wiki=FILE"
        )

    def without(self, outputs: Sequence[Path]) -> Self:
        """Return the source without files that are written during the build."""
        return replace(self, outputs=tuple(outputs))

    def strictly(self) -> Self:
        """Return the source whose records must have the domain and id fields that are named; to check the names."""
        return replace(self, fields=replace(self.fields, strict=True))

    def listing(self) -> Listing:
        """Return what a directory holds. Raises UserError if it is a token store."""
        root = input_path(self.address)
        if is_token_store(root):
            raise UserError(
                f"{self.address} is a token store, not text; build from the text that it was built from, or choose "
                "documents of it with pathways-lite data select"
            )
        return list_directory(root, self.outputs)

    def files(self, listing: Listing | None = None) -> list[InputFile]:
        """Return the files to read, of a directory those of `listing`. Raises UserError if there are none."""
        if self.address == PYTHON:
            return [InputFile(path, name, self.fields.domain or "code") for path, name in library_files()]
        root = input_path(self.address)
        if root.is_file():
            domain = self.fields.domain or utf8_name(split_name(root.name)[0])
            return [InputFile(root, utf8_name(root.name), domain)]
        if not self.is_directory():
            if root.exists():
                raise UserError(
                    f"{printable(self.address)} is neither a file nor a directory; write it to a file first"
                )
            raise UserError(
                f"{printable(self.address)}: no such file or directory; a source is one of these, or {PYTHON}"
                f"{similar_path(root)}"
            )
        base = utf8_name(root.absolute().name)
        files = [
            InputFile(root / name, f"{base}/{utf8_name(name.as_posix())}", self.fields.domain or base)
            for name in (listing or self.listing()).names
        ]
        if not files:
            raise UserError(f"{printable(self.address)}: the directory holds no files")
        return files

    def is_directory(self) -> bool:
        """Say whether the source is a directory."""
        return self.address != PYTHON and input_path(self.address).is_dir()

    def chunks(self) -> Iterator[InputChunk]:
        """Yield all input chunks, in an order that never changes."""
        if self.address == PYTHON:
            yield from python_chunks(self.fields.domain)
            return
        listing = self.listing() if self.is_directory() else None
        for file in self.files(listing):
            yield from file_chunks(file, self.fields)
        for skipped in listing.left_out if listing else ():
            yield BadChunk(skipped)

    def to_json(self) -> dict[str, Any]:
        """Return what determines the documents, besides the files."""
        return {"address": utf8_name(self.address), "fields": self.fields.to_json()}


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False
