"""Selections: files with the score and the new domain of every training document of a corpus, and how to apply them.

A selection file is JSON Lines. The first line is the `Origin`: the corpus, the method and its options, the model. Then
follows a line per training document, in the corpus's order:

    {"domain": "novels", "document": 0, "id": "novels/0", "score": 3.21, "to": "novels"}

`to` is a domain of the new store that `apply_selection` writes, or null for a document that is left out. Any program
may write such a file, not only `pathways-lite data select`.
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
from pathways_lite.data.store_lock import lock_store
from pathways_lite.data.zarr_io import read_file
from pathways_lite.errors import UserError, similar_path

FORMAT = "pathways-lite selection"
VERSION = 1


@dataclass(frozen=True)
class Origin:
    """How a selection was made: the first line of its file."""

    corpus: str  # address
    fingerprint: str  # of the corpus
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] | None = None  # path and digest of the scoring checkpoint; FLOPs of scoring
    format: str = FORMAT
    version: int = VERSION


@dataclass(frozen=True)
class Selection:
    """The score and the new domain of every training document, in the order of `training_documents`."""

    origin: Origin
    score: np.ndarray  # float64 [n]
    destinations: Sequence[str | None]  # [n]

    @property
    def kept(self) -> np.ndarray:
        """True for the documents that are not left out, bool [n]."""
        return np.array([name is not None for name in self.destinations], bool)

    def write(self, path: Path, store: Store) -> None:
        """Write the file atomically. Raises UserError if the directory is missing."""
        require_directory(path)
        with replace_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self.origin), ensure_ascii=False) + "\n")
            for document, score, to in zip(_document_keys(store), self.score.tolist(), self.destinations, strict=True):
                line = {**document, "score": float(f"{score:.7g}"), "to": to}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def require_directory(path: Path) -> None:
    """Raise UserError if a file cannot be written to `path`: its directory is missing, or it is a directory itself."""
    if path.is_dir():
        raise UserError(f"{path} is a directory; name a file in it, or another one")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no directory {path.parent}; create it, or name another file")


@dataclass(frozen=True)
class TrainingDocuments:
    """All training documents of a store: domain by domain, in stored order. Arrays are int64 `[n]`."""

    domain: np.ndarray  # index into the store's domains
    number: np.ndarray  # within the domain
    tokens: np.ndarray


def training_documents(store: Store) -> TrainingDocuments:
    """Return the documents that can be selected. Raises UserError if there are none."""
    tokens = [np.diff(store.document_starts(domain)) for domain in store.domains]
    if not sum(map(len, tokens)):
        raise UserError(f"{store.address} has no training documents to select from")
    return TrainingDocuments(
        domain=np.repeat(np.arange(len(tokens)), [len(lengths) for lengths in tokens]),
        number=np.concatenate([np.arange(len(lengths)) for lengths in tokens]),
        tokens=np.concatenate(tokens),
    )


def _document_keys(store: Store) -> Iterator[dict[str, Any]]:
    """Yield the fields that identify a document in a selection file, for all training documents in order."""
    for domain in store.domains:
        for number, id_ in enumerate(store.document_ids(domain)):
            yield {"domain": domain, "document": number, "id": id_}


def read_origin(path: Path) -> Origin:
    """Read the first line of a selection file. Raises UserError if it is not one."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; a selection is what `pathways-lite data select` writes{similar_path(path)}"
        )
    try:
        with path.open(encoding="utf-8") as file:
            origin = Origin(**json.loads(file.readline()))
    except (ValueError, TypeError):
        origin = None
    if origin is None or origin.format != FORMAT or not isinstance(origin.fingerprint, str):
        raise UserError(f"{path} is not a selection: its first line does not describe one; was another file meant?")
    if origin.version != VERSION:
        raise UserError(f"{path} has version {origin.version} of the format, but this program reads {VERSION}; redo it")
    return origin


def read_selection(path: Path, store: Store) -> Selection:
    """Read a selection of documents of `store`. Raises UserError for another corpus, or lines that do not fit it."""
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
        for number, expected in enumerate(_document_keys(store), 2):
            line = next(file, "")
            try:
                raw = json.loads(line)
                actual = {name: raw[name] for name in expected}
                scores.append(float(raw["score"]))
                to.append(None if raw["to"] is None else str(raw["to"]))
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{path}:{number}: expected a line about {expected}, found {line!r}") from error
            if actual != expected:
                raise UserError(f"{path}:{number}: expected the line of {expected}, found that of {actual}")
        if (rest := next(file, "")).strip():
            raise UserError(f"{path} has more lines than {store.address} has training documents: {rest!r}")
    return Selection(origin, np.asarray(scores), to)


def digest(path: Path) -> str:
    """Return the SHA-256 of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- applying a selection ----


def apply_selection(path: Path, store: Store, out: str, *, done: Callable[[int], None] = lambda tokens: None) -> Store:
    """Write the store `out` of the training documents that the selection file `path` keeps, in their new domains.

    The tokens are copied from `store`, the corpus that was selected from. Within a domain, documents are in the order
    of the old store. All held-out documents stay in their old domains, so that models are evaluated on the same text
    for any selection. If the same selection has already written `out`, it is left as it is. `done` is called
    with the number of further tokens of the old store that have been processed.

    Raises UserError for a selection of another corpus, one that does not fit it, or one that keeps nothing, and if
    `out` holds another store, or is being written.
    """
    selection = read_selection(path, store)
    if not selection.kept.any():
        raise UserError(f"{path} keeps no document; a store needs at least one to train on")
    plan = {"selection": asdict(selection.origin) | {"digest": digest(path)}, "of": store.manifest.plan}
    with lock_store(out):
        if read_file(out, MANIFEST) is not None:
            existing = open_store(out)
            if existing.manifest.plan.get("selection", {}).get("digest") != plan["selection"]["digest"]:
                raise UserError(f"{out} holds another store; name another directory, or delete that one")
            return existing
        _copy_documents(selection, store, out, plan, done)
    return open_store(out)


def _copy_documents(
    selection: Selection, store: Store, out: str, plan: dict[str, Any], done: Callable[[int], None]
) -> None:
    """Write the store `out` of the selected documents."""
    domains, destinations = _resolve_destinations(selection, store)
    writers = _make_writers(out, store, domains, destinations)
    for old, name in enumerate(store.domains):
        for split in SPLITS:
            ids = np.asarray(store.document_ids(name, split), object)
            length = np.diff(store.document_starts(name, split))
            for first, stop, tokens in store.document_blocks(name, split):
                destination = destinations[old, split][first:stop]
                for new in np.unique(destination[destination >= 0]).tolist():
                    goes_to_new = destination == new
                    new_tokens = tokens[np.repeat(goes_to_new, length[first:stop])]
                    writers[new, split].append(new_tokens, ids[first:stop][goes_to_new])
                done(len(tokens))
    finish_store(out, domains, writers, store.tokenizer(), store.frame, [], plan, store.manifest.round_trip)


Destinations = dict[tuple[int, Split], np.ndarray]
"""The new domain of each document, -1 for none, by old domain and split."""


def _resolve_destinations(selection: Selection, store: Store) -> tuple[list[str], Destinations]:
    """Return the new store's domains, sorted, and the documents' destinations."""
    held_out = [name for name in store.domains if store.counts(name, "held_out").documents]
    domains = sorted({*(name for name in selection.destinations if name is not None), *held_out})
    index: dict[str | None, int] = {None: -1, **{name: i for i, name in enumerate(domains)}}
    train = np.array([index[name] for name in selection.destinations])
    counts = [store.counts(name).documents for name in store.domains]
    destinations: Destinations = {}
    for old, of_domain in enumerate(np.split(train, np.cumsum(counts)[:-1])):
        name = store.domains[old]
        destinations[old, "train"] = of_domain
        destinations[old, "held_out"] = np.full(store.counts(name, "held_out").documents, index.get(name, -1))
    return domains, destinations


def _make_writers(out: str, store: Store, domains: Sequence[str], destinations: Destinations) -> Streams:
    writers: Streams = {}
    for split in SPLITS:
        destination = np.concatenate([destinations[old, split] for old in range(len(store.domains))])
        length = np.concatenate([np.diff(store.document_starts(name, split)) for name in store.domains])
        text_bytes = np.concatenate([store.document_text_bytes(name, split) for name in store.domains])
        for new in range(len(domains)):
            goes_to_new = destination == new
            writers[new, split] = StreamWriter(
                out, new, split, length[goes_to_new], text_bytes[goes_to_new], store.vocab_size
            )
    return writers
