"""Write a token store: its arrays, its fingerprint and its manifest.

`build` assembles stores from shards with `survey` and `write_store`; `selection`, which copies documents from another
store, uses `StreamWriter` and `finish_store` directly. `store` reads the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.data.pieces import PIECES_FILE, ArrayWriter, Pieces
from pathways_lite.data.round_trip import RoundTrip
from pathways_lite.data.shards import Shard, token_dtype
from pathways_lite.data.store import (
    MANIFEST,
    SPLITS,
    Counts,
    Manifest,
    Split,
    store_fingerprint,
    stream_path,
)
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.data.zarr_io import write_file
from pathways_lite.document_frame import DocumentFrame


@dataclass(frozen=True)
class Contents:
    """All that a set of shards holds but the tokens. Document columns are `[D]`, in the order of the input."""

    domains: list[str]  # sorted
    domain: np.ndarray
    source: np.ndarray
    group: np.ndarray
    length: np.ndarray
    text_bytes: np.ndarray
    skipped: list[tuple[int, str]]
    skipped_documents: int
    round_trip: RoundTrip


def survey(shards: Sequence[Path]) -> Contents:
    """Read all shards but their tokens and ids."""
    loaded = [replace(Shard.load(path, tokens=False), ids=[]) for path in shards]
    domains = sorted({name for shard in loaded for name in shard.domains})
    domain_index = {name: i for i, name in enumerate(domains)}

    def column(get: Callable[[Shard], np.ndarray]) -> np.ndarray:
        return np.concatenate([get(shard) for shard in loaded])

    return Contents(
        domains=domains,
        domain=column(lambda s: _renumber_domains(s, domain_index)),
        source=column(lambda s: s.source),
        group=column(lambda s: s.group),
        length=column(lambda s: s.length),
        text_bytes=column(lambda s: s.text_bytes),
        skipped=[entry for shard in loaded for entry in shard.skipped],
        skipped_documents=sum(shard.skipped_documents for shard in loaded),
        round_trip=sum((shard.round_trip for shard in loaded), RoundTrip()),
    )


def _renumber_domains(shard: Shard, domain_index: dict[str, int]) -> np.ndarray:
    table = np.array([domain_index[name] for name in shard.domains], np.int64)
    return table[shard.domain]


def write_store(
    address: str,
    shards: Sequence[Path],
    contents: Contents,
    tokenizer: Tokenizer,
    *,
    frame: DocumentFrame,
    held: np.ndarray,
    plan: dict[str, Any],
    progress: Callable[[int], None],
) -> Manifest:
    """Write the store from its shards, the manifest last.

    Args:
      frame: the tokens around every document of the shards.
      held: which documents are held out, bool `[D]`.
      progress: called with the number of documents written so far.
    """
    stream = contents.domain * len(SPLITS) + held  # SPLITS is train, held_out
    writers: Streams = {}
    for d in range(len(contents.domains)):
        for s, split in enumerate(SPLITS):
            in_stream = stream == d * len(SPLITS) + s
            length, text_bytes = contents.length[in_stream], contents.text_bytes[in_stream]
            writers[d, split] = StreamWriter(address, d, split, length, text_bytes, tokenizer.vocab_size)
    done = 0
    for path in shards:
        shard = Shard.load(path, tokens=True)
        shard_stream = stream[done : done + len(shard.ids)]
        for index in np.unique(shard_stream).tolist():
            d, s = divmod(index, len(SPLITS))
            in_stream = shard_stream == index
            ids = [id_ for id_, is_in in zip(shard.ids, in_stream.tolist(), strict=True) if is_in]
            writers[d, SPLITS[s]].append(shard.tokens[np.repeat(in_stream, shard.length)], ids)
        done += len(shard.ids)
        progress(done)
    skipped = [sentence for _, sentence in contents.skipped]
    return finish_store(
        address,
        contents.domains,
        writers,
        tokenizer,
        frame,
        skipped,
        plan,
        contents.round_trip,
        skipped_documents=contents.skipped_documents,
    )


class StreamWriter:
    """Writes the arrays of one split of one domain, given the lengths of all its documents."""

    def __init__(
        self, address: str, domain: int, split: Split, length: np.ndarray, text_bytes: np.ndarray, vocab_size: int
    ) -> None:
        self.counts = Counts(len(length), int(length.sum()), int(text_bytes.sum()))
        self._address, self._domain, self._split = address, domain, split
        self.pieces: dict[str, Pieces] = {}  # by path, of all arrays
        self._tokens = self._array_writer("tokens", token_dtype(vocab_size), self.counts.tokens)
        self._small = {"starts": np.concatenate([[0], np.cumsum(length)]), "text_bytes": text_bytes}
        self._ids: list[bytes] = []

    def append(self, tokens: np.ndarray, ids: Sequence[str]) -> None:
        """Append documents: their concatenated tokens, and the id of each."""
        self._tokens.append(tokens)
        self._ids += [id_.encode() for id_ in ids]

    def close(self) -> list[str]:
        """Write the remaining arrays; return the digests of all."""
        digests = [self._tokens.close()]
        ends = np.cumsum([0, *map(len, self._ids)])
        small = {**self._small, "id_starts": ends, "ids": np.frombuffer(b"".join(self._ids), np.uint8)}
        for name, values in small.items():
            dtype = np.dtype(np.uint8 if name == "ids" else np.uint64)
            writer = self._array_writer(name, dtype, len(values))
            writer.append(values)
            digests.append(writer.close())
        return digests

    def _array_writer(self, name: str, dtype: np.dtype, length: int) -> ArrayWriter:
        path = stream_path(self._domain, self._split, name)
        # A split without documents has no files: a corpus may have hundreds of domains.
        stored = self.counts.documents > 0
        writer = ArrayWriter(self._address, path, dtype, length, stored=stored)
        if stored:
            self.pieces[path] = writer.pieces
        return writer


Streams = dict[tuple[int, Split], StreamWriter]
"""Writers by domain index and split."""


def finish_store(
    address: str,
    domains: list[str],
    writers: Streams,
    tokenizer: Tokenizer,
    frame: DocumentFrame,
    skipped: list[str],
    plan: dict[str, Any],
    round_trip: RoundTrip | None,
    *,
    skipped_documents: int = 0,
) -> Manifest:
    """Close the writers, to which all documents have been appended, and write the other files, the manifest last.

    `skipped` are sentences about `skipped_documents` documents.
    """
    digests = {f"{d}/{split}": writer.close() for (d, split), writer in writers.items()}
    pieces = {path: asdict(record) for writer in writers.values() for path, record in writer.pieces.items()}
    pieces_content = json.dumps(pieces, separators=(",", ":")).encode() + b"\n"
    manifest = Manifest(
        fingerprint=store_fingerprint(domains, tokenizer.fingerprint, frame, digests),
        tokenizer=tokenizer.fingerprint,
        tokenizer_kind=tokenizer.kind,
        vocab_size=tokenizer.vocab_size,
        eod=frame.opens,
        dtype=token_dtype(tokenizer.vocab_size).name,
        domains=domains,
        counts=[{split: writers[d, split].counts for split in SPLITS} for d in range(len(domains))],
        skipped=skipped_documents,
        plan=plan,
        round_trip=round_trip,
        pieces=hashlib.sha256(pieces_content).hexdigest(),
        closes=frame.closes,
    )
    for name, content in tokenizer.files().items():
        write_file(address, f"tokenizer/{name}", content)
    write_file(address, "skipped.txt", "".join(f"{sentence}\n" for sentence in skipped).encode())
    write_file(address, PIECES_FILE, pieces_content)
    write_file(address, MANIFEST, manifest.to_json())
    return manifest
