"""Verify a token store: every file against its digest, and the content against the fingerprint."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pathways_lite.data.pieces import ArrayReader, digest_values, little_endian
from pathways_lite.data.store import (
    ARRAYS,
    FORMAT,
    MANIFEST,
    SPLITS,
    Split,
    Store,
    open_store,
    store_fingerprint,
    stream_path,
)
from pathways_lite.errors import UserError

_EMPTY = {"starts": np.zeros(1, np.uint64), "id_starts": np.zeros(1, np.uint64)}  # of a split without documents


def is_store(path: Path) -> bool:
    """Return whether a directory has the manifest of a token store, damaged or not."""
    manifest = path / MANIFEST
    return manifest.is_file() and FORMAT.encode() in manifest.read_bytes()


def fsck(address: str, *, done: Callable[[int], None] = lambda tokens: None) -> list[str]:
    """Read all of a store; return a sentence for each file that is damaged, and none if the store is intact.

    `done` is called with the number of further tokens that have been read. Raises UserError if `address` holds no
    store, or one whose manifest cannot be read.
    """
    store = open_store(address)
    try:
        store.tokenizer()
        _ = store.pieces
    except UserError as error:
        return [str(error)]
    problems: list[str] = []
    digests: dict[str, list[str]] = {}
    for (index, domain), split in itertools.product(enumerate(store.domains), SPLITS):
        stream_problems, digests[f"{index}/{split}"] = _verify_stream(store, index, domain, split)
        problems += stream_problems
        done(store.tokens(domain, split))
    actual = store_fingerprint(store.domains, store.manifest.tokenizer, store.frame, digests)
    if not problems and actual != store.fingerprint:
        problems.append(
            f"{address} is damaged: its content has the fingerprint {actual[:12]}, its {MANIFEST} says "
            f"{store.fingerprint[:12]}; copy it again, or build it again"
        )
    return problems


def _verify_stream(store: Store, index: int, domain: str, split: Split) -> tuple[list[str], list[str]]:
    """Verify the arrays of a stream; return the problems, and the digest of each array that has none."""
    problems, digests = [], []
    for name in ARRAYS:
        digest = hashlib.sha256()
        if not store.counts(domain, split).documents:
            digest.update(_EMPTY.get(name, np.zeros(0)).tobytes())
            digests.append(digest.hexdigest())
            continue
        try:
            array = store.array(domain, split, name)
        except UserError as error:
            problems.append(str(error))
            continue
        for piece in array.piece_numbers(0, array.length):
            try:
                digest.update(little_endian(array.read_piece(piece)))
            except UserError as error:
                problems.append(f"{error}{_origin(store, stream_path(index, split, name), piece)}")
        digests.append(digest.hexdigest())
    if not problems:
        problems += _count(store, domain, split)
    return problems, digests


def _origin(store: Store, path: str, piece: int) -> str:
    """Return, in brackets, whose content a file with wrong values has; "" where that is unknown."""
    if store.pieces is None:
        return ""
    try:
        digest = digest_values(ArrayReader(store.address, path, None, None).read_piece(piece))
    except UserError:
        return ""
    for other, record in store.pieces.items():
        if digest in record.digests:
            return f" (it holds the content of {other}/c/{record.digests.index(digest)})"
    return ""


def _count(store: Store, domain: str, split: Split) -> list[str]:
    """Compare the counts in the manifest with the arrays."""
    counts = store.counts(domain, split)
    if not counts.documents:
        return []
    starts, text_bytes = store.document_starts(domain, split), store.document_text_bytes(domain, split)
    actual = (len(text_bytes), int(starts[-1]), int(text_bytes.sum()))
    if actual == (counts.documents, counts.tokens, counts.text_bytes):
        return []
    return [
        f"{store.address} is damaged: {MANIFEST} counts {counts.documents}, {counts.tokens} and {counts.text_bytes} "
        f"documents, tokens and bytes of {domain}/{split}, the arrays have {actual[0]}, {actual[1]} and {actual[2]}; "
        "copy it again, or build it again"
    ]
