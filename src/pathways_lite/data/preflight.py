"""Check the sources of a build before it begins: is there a document, and are fields named as in the records?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from pathways_lite.data.documents import Document
from pathways_lite.data.seqio_tasks import SEQIO
from pathways_lite.data.sources import PYTHON, Source
from pathways_lite.errors import UserError

_MAX_ITEMS = 1000  # of a source, in search of the first document
_FIELD_OPTIONS = ("--text-field", "--domain-field", "--id-field")


def require_documents(sources: Sequence[Source]) -> None:
    """Raise UserError for a source without a document, or in whose first records a field that was named is missing.

    Each is read until its first document, which may lack no field. A source that begins with damaged documents is left
    to the build, which skips and counts them.
    """
    for source in sources:
        if source.address == PYTHON or source.address.startswith(SEQIO):
            continue
        strict = replace(source, fields=replace(source.fields, strict=True))
        problems: list[str] = []
        for item in islice((item for chunk in strict.chunks() for item in chunk.read()), _MAX_ITEMS):
            if isinstance(item, Document):
                break
            problems.append(item.sentence)
        else:
            if len(problems) < _MAX_ITEMS or any(option in problems[0] for option in _FIELD_OPTIONS):
                raise no_document_error(source, problems)


def no_document_error(source: Source, problems: Sequence[str]) -> UserError:
    """Return the error for a source of which no document can be read."""
    why = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
    return UserError(f"{source.address}: not one document could be read from it{why}")
