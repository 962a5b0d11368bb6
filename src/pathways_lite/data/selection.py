"""Selections: files that say of every training document of a corpus how it scored and which domain it goes to.

JSON Lines. The first line is the `Origin`: which corpus, which method with which options, which model. Then comes a
line per training document, in the corpus's order:

    {"domain": "novels", "document": 0, "id": "novels/0", "score": 3.21, "to": "novels"}

`to` is a domain of the store that `data.selected` makes of it, or null for a document that is left out. A program may
write such a file as well as `pathways-lite data select`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.data.store import Store
from pathways_lite.errors import UserError

FORMAT = "pathways-lite selection"
VERSION = 1


@dataclass(frozen=True)
class Origin:
    """Where a selection comes from."""

    corpus: str  # address
    fingerprint: str  # of the corpus
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] | None = None  # path and digest of the checkpoint; FLOPs of asking it
    format: str = FORMAT
    version: int = VERSION


@dataclass(frozen=True)
class Selection:
    """Of every training document, in the order of `training_documents`: score and new domain."""

    origin: Origin
    score: np.ndarray  # float64 [n]
    to: Sequence[str | None]  # [n]

    @property
    def kept(self) -> np.ndarray:
        """Which documents go anywhere, bool [n]."""
        return np.array([name is not None for name in self.to], bool)

    def write(self, path: Path, store: Store) -> None:
        """Write the file as a whole. Raises UserError where the directory is missing."""
        require_directory(path)
        unfinished = path.with_name(f"{path.name}.part")
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self.origin), ensure_ascii=False) + "\n")
            for place, score, to in zip(_places(store), self.score.tolist(), self.to, strict=True):
                line = {**place, "score": float(f"{score:.7g}"), "to": to}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        unfinished.replace(path)


def require_directory(path: Path) -> None:
    """Raise UserError where the directory of a file that is to be written is missing, or the file is a directory."""
    if path.is_dir():
        raise UserError(f"{path} is a directory; name a file in it, or another one")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no directory {path.parent}; make it, or name another file")


@dataclass(frozen=True)
class TrainingDocuments:
    """All training documents of a store: domain by domain, in stored order. Arrays are int64 `[n]`."""

    domain: np.ndarray  # index into the store's domains
    number: np.ndarray  # within the domain
    tokens: np.ndarray


def training_documents(store: Store) -> TrainingDocuments:
    """What can be selected from. Raises UserError where there is nothing."""
    tokens = [np.diff(store.document_starts(domain)) for domain in store.domains]
    if not sum(map(len, tokens)):
        raise UserError(f"{store.address} has no training documents to select from")
    return TrainingDocuments(
        domain=np.repeat(np.arange(len(tokens)), [len(part) for part in tokens]),
        number=np.concatenate([np.arange(len(part)) for part in tokens]),
        tokens=np.concatenate(tokens),
    )


def _places(store: Store) -> Iterator[dict[str, Any]]:
    for domain in store.domains:
        for number, id_ in enumerate(store.document_ids(domain)):
            yield {"domain": domain, "document": number, "id": id_}


def read_origin(path: Path) -> Origin:
    """The first line of a selection file. Raises UserError where it is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; a selection is what `pathways-lite data select` writes")
    try:
        with path.open(encoding="utf-8") as file:
            found = Origin(**json.loads(file.readline()))
    except (ValueError, TypeError):
        found = None
    if found is None or found.format != FORMAT or not isinstance(found.fingerprint, str):
        raise UserError(f"{path} is no selection: its first line does not say so; was another file meant?")
    if found.version != VERSION:
        raise UserError(f"{path} has version {found.version} of the format, but this program reads {VERSION}; redo it")
    return found


def read_selection(path: Path, store: Store) -> Selection:
    """The selection of documents of `store`. Raises UserError for another corpus, or lines that do not fit."""
    origin = read_origin(path)
    if origin.fingerprint != store.fingerprint:
        raise UserError(
            f"{path} selects from the corpus with fingerprint {origin.fingerprint[:12]}, but {store.address} has "
            f"{store.fingerprint[:12]}; name the right corpus, or select again"
        )
    scores: list[float] = []
    to: list[str | None] = []
    with path.open(encoding="utf-8") as file:
        next(file)
        for number, place in enumerate(_places(store), 2):
            line = next(file, "")
            try:
                raw = json.loads(line)
                there = {name: raw[name] for name in place}
                scores.append(float(raw["score"]))
                to.append(None if raw["to"] is None else str(raw["to"]))
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{path}:{number}: expected a line about {place}, found {line!r}") from error
            if there != place:
                raise UserError(f"{path}:{number}: expected the line of {place}, found that of {there}")
        if (rest := next(file, "")).strip():
            raise UserError(f"{path} has more lines than {store.address} has training documents: {rest!r}")
    return Selection(origin, np.asarray(scores), to)


def digest(path: Path) -> str:
    """SHA-256 of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
