"""Reading a source to its end."""

from pathlib import Path

from pathways_lite.data.documents import Document, Skipped
from pathways_lite.data.sources import Source


def read(source: str | Path | Source) -> tuple[list[Document], list[str]]:
    """Return documents, and sentences about skipped input."""
    documents, skipped = read_items(source)
    return documents, [item.sentence for item in skipped]


def read_items(source: str | Path | Source) -> tuple[list[Document], list[Skipped]]:
    """Return documents and skipped input."""
    source = source if isinstance(source, Source) else Source.parse(str(source))
    items = [item for chunk in source.chunks() for item in chunk.read()]
    documents = [item for item in items if isinstance(item, Document)]
    return documents, [item for item in items if isinstance(item, Skipped)]
