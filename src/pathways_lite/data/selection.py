"""Selections: files that say of every training document of a corpus how it scored and which domain it goes to.

JSON Lines. The first line is the `Origin`: which corpus, which method with which options, which model. Then comes a
line per training document, in the corpus's order:

    {"domain": "novels", "document": 0, "id": "novels/0", "score": 3.21, "to": "novels"}

`to` is a domain of the store that `data.selection` makes of it, or null for a document that is left out. A program may
write such a file as well as `pathways-lite data select`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.atomic_file import replace_atomically
from pathways_lite.data.assemble import Streams, StreamWriter, finish_store
from pathways_lite.data.store import MANIFEST, SPLITS, Split, Store, open_store
from pathways_lite.data.zarr_io import read_file
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
    model: dict[str, Any] | None = None  # path and digest of the checkpoint; FLOPs of prompt_format it
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
        with replace_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self.origin), ensure_ascii=False) + "\n")
            for place, score, to in zip(_places(store), self.score.tolist(), self.to, strict=True):
                line = {**place, "score": float(f"{score:.7g}"), "to": to}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


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


# A selection carried out: a new store out of the tokens of the one that was selected from.


def apply_selection(path: Path, store: Store, out: str, *, done: Callable[[int], None] = lambda tokens: None) -> Store:
    """The store `out` of the training documents that the selection file `path` keeps, in the domains it gives them.

    Within a domain, documents stand in the order of the old store. Held-out documents all stay, in their old domains,
    so that models are evaluated on the same text whatever was selected. An `out` that the same selection has made is
    left as it is. `done` is told, as it goes, how many more tokens of the old store are through.

    Raises UserError: a selection of another corpus or that does not fit it, one that keeps nothing, or an `out` that
    holds something else.
    """
    selection = read_selection(path, store)
    if not selection.kept.any():
        raise UserError(f"{path} keeps no document; a store needs at least one to train on")
    plan = {"selection": asdict(selection.origin) | {"digest": digest(path)}, "of": store.manifest.plan}
    if read_file(out, MANIFEST) is not None:
        there = open_store(out)
        if there.manifest.plan.get("selection", {}).get("digest") != plan["selection"]["digest"]:
            raise UserError(f"{out} holds another store; name another directory, or delete that one")
        return there
    domains, goes_to = _destinations(selection, store)
    writers = _writers(out, store, domains, goes_to)
    for old, name in enumerate(store.domains):
        for split in SPLITS:
            ids = np.asarray(store.document_ids(name, split), object)
            length = np.diff(store.document_starts(name, split))
            for first, stop, tokens in store.stretches(name, split):
                here = goes_to[old, split][first:stop]
                for new in np.unique(here[here >= 0]).tolist():
                    mine = here == new
                    writers[new, split].append(tokens[np.repeat(mine, length[first:stop])], ids[first:stop][mine])
                done(len(tokens))
    finish_store(out, domains, writers, store.tokenizer(), [], plan)
    return open_store(out)


GoesTo = dict[tuple[int, Split], np.ndarray]
"""By old domain and split: the new domain of each document, -1 for none."""


def _destinations(selection: Selection, store: Store) -> tuple[list[str], GoesTo]:
    """The new store's domains, sorted, and where documents go."""
    held_out = [name for name in store.domains if store.counts(name, "held_out").documents]
    domains = sorted({*(name for name in selection.to if name is not None), *held_out})
    number: dict[str | None, int] = {None: -1, **{name: i for i, name in enumerate(domains)}}
    train = np.array([number[name] for name in selection.to])
    counts = [store.counts(name).documents for name in store.domains]
    goes_to: GoesTo = {}
    for old, part in enumerate(np.split(train, np.cumsum(counts)[:-1])):
        name = store.domains[old]
        goes_to[old, "train"] = part
        goes_to[old, "held_out"] = np.full(store.counts(name, "held_out").documents, number.get(name, -1))
    return domains, goes_to


def _writers(out: str, store: Store, domains: Sequence[str], goes_to: GoesTo) -> Streams:
    writers: Streams = {}
    for split in SPLITS:
        where = np.concatenate([goes_to[old, split] for old in range(len(store.domains))])
        length = np.concatenate([np.diff(store.document_starts(name, split)) for name in store.domains])
        text_bytes = np.concatenate([store.document_text_bytes(name, split) for name in store.domains])
        for new in range(len(domains)):
            mine = where == new
            writers[new, split] = StreamWriter(out, new, split, length[mine], text_bytes[mine], store.vocab_size)
    return writers
