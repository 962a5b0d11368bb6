"""Where text comes from: files, directories, JSONL, Parquet, and the Python installation itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pathways_lite.data.documents import InputChunk
from pathways_lite.data.files import Fields, TextFile, bare_name, jsonl_chunks, parquet_chunks
from pathways_lite.data.python_installation import library_files, python_chunks
from pathways_lite.errors import UserError

PYTHON = "python:"
_JSONL = frozenset({".jsonl", ".ndjson"})


@dataclass(frozen=True)
class InputFile:
    """A file of a source: where it is, and the name under which its documents are known wherever it lies."""

    path: Path
    name: str
    domain: str  # of a plain text file

    def state(self) -> tuple[str, int, int]:
        """Name, size and time of the last change: differs if the file was changed."""
        stat = self.path.stat()
        return self.name, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Source:
    """A file, a directory (read in the order of its file names), or `python:`.

    The ending says what a file is: .jsonl, .ndjson and .parquet hold records, anything else is text; each
    may be compressed (.gz, .zst). Names that begin with a dot are left out.
    """

    address: str
    fields: Fields = Fields()  # noqa: RUF009  frozen

    @classmethod
    def parse(cls, text: str, fields: Fields = Fields()) -> Source:  # noqa: B008  frozen
        """`ADDRESS`, or `DOMAIN=ADDRESS` for a domain that all its documents belong to."""
        domain, equals, address = text.partition("=")
        if equals and domain.isidentifier() and not Path(text).exists():
            return cls(address, Fields(**{**asdict(fields), "domain": domain}))
        return cls(text, fields)

    def files(self) -> list[InputFile]:
        """The files that it reads. Raises UserError where there are none."""
        if self.address == PYTHON:
            return [InputFile(path, name, "code") for path, name in library_files()]
        root = Path(self.address)
        if root.is_file():
            return [InputFile(root, root.name, self.fields.domain or bare_name(root)[0])]
        if not root.is_dir():
            raise UserError(f"{self.address}: no such file or directory; a source is one of these, or {PYTHON}")
        found = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
        base = root.absolute().name
        files = [
            InputFile(root / name, f"{base}/{name.as_posix()}", self.fields.domain or base)
            for name in found
            if not any(part.startswith(".") for part in name.parts)
        ]
        if not files:
            raise UserError(f"{self.address}: the directory holds no files")
        return files

    def pieces(self) -> Iterator[InputChunk]:
        """Everything that it gives, in an order that never changes."""
        if self.address == PYTHON:
            yield from python_chunks()
            return
        for file in self.files():
            yield from _file_pieces(file, self.fields)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _file_pieces(file: InputFile, fields: Fields) -> Iterator[InputChunk]:
    suffix = bare_name(file.path)[1]
    if suffix in _JSONL:
        yield from jsonl_chunks(file.path, file.name, fields)
    elif file.path.suffix.lower() == ".parquet":
        yield from parquet_chunks(file.path, file.name, fields)
    else:
        yield TextFile(file.path, file.name, file.domain, file.path.stat().st_size)
