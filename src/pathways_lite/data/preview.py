"""Say what each source of a build is taken for, with some documents: `data build --dry-run` and its summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from pathways_lite.data.documents import Document, InputChunk, Skipped, printable
from pathways_lite.data.file_formats import recognize
from pathways_lite.data.files import InputFile, file_chunks
from pathways_lite.data.sources import PYTHON, Source

_N_EXAMPLES = 3
_CHARACTERS = 100
_SHOWN = 5  # sentences of a kind


@dataclass
class Preview:
    """What a source is taken for."""

    address: str
    n_files: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Numbers of files by what they hold."""
    left_out: list[str] = field(default_factory=list)
    """Sentences about files and links that are not read."""
    followed: list[str] = field(default_factory=list)
    """Links that lead out of the source."""
    examples: list[Document] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Sentences about what holds no documents, found on the way to the examples."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{n:,} as {kind}" for kind, n in self.kinds.most_common())
        plural = "" if self.n_files == 1 else "s"
        lines = [
            f"{printable(self.address).rstrip(':')}: {self.n_files:,} file{plural}, {kinds or 'none of which is read'}"
        ]
        for heading, sentences in (
            ("left out", self.left_out),
            ("link out of the source", self.followed),
            ("skipped", self.problems),
        ):
            lines += [f"  {heading}: {sentence}" for sentence in sentences[:_SHOWN]]
            if len(sentences) > _SHOWN:
                lines.append(f"  {heading}: {len(sentences) - _SHOWN:,} more")
        for document in self.examples:
            beginning = printable(document.text[:_CHARACTERS])
            rest = " ..." if len(document.text) > _CHARACTERS else ""
            lines.append(f"  {printable(document.id)} (domain {printable(document.domain)}): {beginning}{rest}")
        return "\n".join(lines)


def preview(source: Source) -> Preview:
    """Recognize all files of a source, and read the beginnings of some documents of it."""
    result = Preview(source.address)
    if source.address == PYTHON:
        result.n_files = len(source.files())
        result.kinds["Python sources"] = result.n_files
        _add_examples(result, [source.chunks()])
        return result
    listing = source.listing() if source.is_directory() else None
    files = source.files(listing)
    result.n_files = len(files)
    if listing is not None:
        result.left_out = [skipped.sentence for skipped in listing.left_out]
        result.followed = listing.followed
    read: list[InputFile] = []
    for file in files:
        recognized = recognize(file.path, source.fields.format)
        if recognized.format is None:
            result.left_out.append(f"{printable(str(file.path))}: {recognized.reason}")
        else:
            result.kinds[str(recognized)] += 1
            read.append(file)
    middle = sorted({len(read) * i // _N_EXAMPLES for i in range(_N_EXAMPLES)}) if read else []
    _add_examples(result, [file_chunks(read[index], source.fields) for index in middle])
    return result


def _add_examples(result: Preview, groups: Sequence[Iterator[InputChunk]]) -> None:
    """Add three documents, from all groups of chunks alike."""
    per_group = -(-_N_EXAMPLES // max(1, len(groups)))
    for chunks in groups:
        items = (item for chunk in chunks for item in chunk.read())
        n = 0
        for item in islice(items, 1000):  # a file may hold nothing that can be read
            if isinstance(item, Skipped):
                result.problems.append(item.sentence)
                continue
            result.examples.append(item)
            n += 1
            if n == per_group or len(result.examples) == _N_EXAMPLES:
                break
