"""Sources of text: files, directories, and the Python installation itself, split into input chunks for `build`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pathways_lite.data.documents import InputChunk
from pathways_lite.data.files import Fields, TextFile, bare_name, jsonl_chunks, parquet_chunks
from pathways_lite.data.python_installation import library_files, python_chunks
from pathways_lite.errors import UserError
from pathways_lite.paths import input_path

PYTHON = "python:"
_JSONL = frozenset({".jsonl", ".ndjson"})


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


@dataclass(frozen=True)
class Source:
    """A file, a directory (read in the order of its file names), or `python:`.

    The suffix determines how a file is read: .jsonl, .ndjson and .parquet hold records, anything else is text. JSONL
    and text may be compressed (.gz, .zst). Names that begin with a dot are left out.
    """

    address: str
    fields: Fields = Fields()  # noqa: RUF009  frozen

    @classmethod
    def parse(cls, text: str, fields: Fields = Fields()) -> Source:  # noqa: B008  frozen
        """Parse `ADDRESS`, or `DOMAIN=ADDRESS` to put all documents into that domain."""
        domain, equals, address = text.partition("=")
        if equals and domain.isidentifier() and not Path(text).exists():
            return cls(address, Fields(**{**asdict(fields), "domain": domain}))
        return cls(text, fields)

    def files(self) -> list[InputFile]:
        """Return the files to read. Raises UserError if there are none."""
        if self.address == PYTHON:
            return [InputFile(path, name, "code") for path, name in library_files()]
        root = input_path(self.address)
        if root.is_file():
            return [InputFile(root, root.name, self.fields.domain or bare_name(root)[0])]
        if not root.is_dir():
            raise UserError(f"{self.address}: no such file or directory; a source is one of these, or {PYTHON}")
        names = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        base = root.absolute().name
        files = [
            InputFile(root / name, f"{base}/{name.as_posix()}", self.fields.domain or base)
            for name in names
            if not any(part.startswith(".") for part in name.parts)
        ]
        if not files:
            raise UserError(f"{self.address}: the directory holds no files")
        return files

    def chunks(self) -> Iterator[InputChunk]:
        """Yield all input chunks, in an order that never changes."""
        if self.address == PYTHON:
            yield from python_chunks()
            return
        for file in self.files():
            yield from _file_chunks(file, self.fields)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _file_chunks(file: InputFile, fields: Fields) -> Iterator[InputChunk]:
    suffix = bare_name(file.path)[1]
    if suffix in _JSONL:
        yield from jsonl_chunks(file.path, file.name, fields)
    elif file.path.suffix.lower() == ".parquet":
        yield from parquet_chunks(file.path, file.name, fields)
    else:
        yield TextFile(file.path, file.name, file.domain, file.path.stat().st_size)
