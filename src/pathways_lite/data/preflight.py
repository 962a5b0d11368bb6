"""Check the sources of a build before it begins: documents, names of fields and domains, and what is held out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

from pathways_lite.data.documents import Document, printable
from pathways_lite.data.seqio_tasks import SEQIO
from pathways_lite.data.sources import PYTHON, Source
from pathways_lite.errors import UserError, did_you_mean

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
        problems: list[str] = []
        for item in islice((item for chunk in source.strictly().chunks() for item in chunk.read()), _MAX_ITEMS):
            if isinstance(item, Document):
                break
            problems.append(item.sentence)
        else:
            if len(problems) < _MAX_ITEMS or any(option in problems[0] for option in _FIELD_OPTIONS):
                raise no_document_error(source, problems)


def require_domains(sources: Sequence[Source], names: Collection[str]) -> None:
    """Raise UserError for a name that no document of the sources has as its domain.

    Reads until every name was found, which takes a part of the time of tokenizing; tasks of SeqIO are not read, so
    with them nothing is refused here.
    """
    missing, there = set(names), dict[str, None]()
    for source in sources if missing else ():
        if source.address.startswith(SEQIO):
            return
        for item in (item for chunk in source.chunks() for item in chunk.read()):
            if isinstance(item, Document):
                there[item.domain] = None
                missing.discard(item.domain)
                if not missing:
                    return
    if missing:
        name = min(missing)
        raise UserError(
            f"--held-out names the domain {name}, of which there is no document.{did_you_mean(name, there)}"
        )


def require_apart(training: Sequence[Source], held_out: Sequence[Source]) -> None:
    """Raise UserError if a file would be trained on and held out: its held-out loss would say nothing."""
    trained_on = {file.path.resolve() for source in training for file in source.files()} if held_out else set()
    for source in held_out:
        if both := [file.path for file in source.files() if file.path.resolve() in trained_on]:
            raise UserError(
                f"{printable(str(both[0]))} is in the sources to train on and in those of --held-out; move what is "
                "held out away from the other files, or name a fraction, as in --held-out 0.01"
            )


def no_document_error(source: Source, problems: Sequence[str]) -> UserError:
    """Return the error for a source of which no document can be read."""
    why = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
    return UserError(f"{source.address}: not one document could be read from it{why}")
