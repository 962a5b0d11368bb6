"""The token store: read tokenized documents of several domains, with random access. `assemble` writes stores.

Layout of the directory (or gs://, s3:// prefix):

    manifest.json               the content's description and fingerprint; written last, so without it there is no store
    tokenizer/                  the tokenizer that made the tokens
    skipped.txt                 one sentence per document that could not be read
    d<domain>/<split>/tokens    the stream: every document is [EOD, t1 .. tn]
                     /starts    start of each document in the stream, and the stream's length
                     /text_bytes  UTF-8 bytes of each document's text
                     /ids, /id_starts  the documents' ids, UTF-8

The last five are zarr3 arrays. EOD opens a document, so the first token is predicted from EOD, the last token predicts
the next document's EOD, and nothing needs masking.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from pathways_lite.data.order import permute, round_keys
from pathways_lite.data.tokenizer_files import TOKENIZER_FILES, tokenizer_from_files
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.data.zarr_io import open_array, read_file
from pathways_lite.errors import UserError
from pathways_lite.paths import storage_address
from pathways_lite.recipe import Data

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)
FORMAT = "pathways-lite token store"
VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Counts:
    """The size of one split of one domain."""

    documents: int
    tokens: int  # the EOD of each document included
    text_bytes: int


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    fingerprint: str  # of tokens, documents and tokenizer; independent of where and how the store was built
    tokenizer: str  # fingerprint of the tokenizer
    tokenizer_kind: str
    vocab_size: int
    eod: int
    dtype: str
    domains: list[str]
    counts: list[dict[Split, Counts]]  # per domain: split -> counts
    skipped: int
    plan: dict[str, Any]  # what determined the content; see data.build and data.selection
    format: str = FORMAT
    version: int = VERSION

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        raw = json.loads(content)
        counts = [{split: Counts(**numbers) for split, numbers in domain.items()} for domain in raw["counts"]]
        return cls(**{**raw, "counts": counts})


@dataclass(frozen=True)
class HeldOutDocument:
    """A document that is never in training."""

    id: str
    tokens: np.ndarray  # int32 [n]; the first one is EOD
    text_bytes: int  # UTF-8 bytes of the text that tokens[1:] encode


@dataclass
class Store:
    """An open token store. Safe to read from many threads, and to send to other processes."""

    address: str
    manifest: Manifest
    _arrays: dict[str, Any] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "manifest": self.manifest, "_arrays": {}}

    @property
    def domains(self) -> list[str]:
        """Names of the domains, sorted; a batch's `domain` is an index into it."""
        return self.manifest.domains

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def eod(self) -> int:
        """Id of the token that opens every document."""
        return self.manifest.eod

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        files = {name: read_file(self.address, f"tokenizer/{name}") for name in TOKENIZER_FILES}
        tokenizer = tokenizer_from_files({n: c for n, c in files.items() if c is not None}, f"{self.address}/tokenizer")
        if tokenizer.fingerprint != self.manifest.tokenizer:
            raise UserError(
                f"{self.address} was built by tokenizer {self.manifest.tokenizer[:12]}, but its directory holds "
                f"tokenizer {tokenizer.fingerprint[:12]}; put the right one back, or build the store again"
            )
        return tokenizer

    def counts(self, domain: str, split: Split = "train") -> Counts:
        return self.manifest.counts[self._index(domain)][split]

    def tokens(self, domain: str, split: Split = "train") -> int:
        """Number of tokens of one split of one domain."""
        return self.counts(domain, split).tokens

    def text_bytes(self, domain: str, split: Split = "train") -> int:
        """Number of UTF-8 bytes of text of one split of one domain."""
        return self.counts(domain, split).text_bytes

    def read(self, domain: str, split: Split, start: int, stop: int) -> np.ndarray:
        """Read the tokens `[start, stop)` of a stream, int32."""
        return self.read_many([(domain, start)], split, stop - start)[0]

    def read_many(self, starts: list[tuple[str, int]], split: Split, length: int) -> np.ndarray:
        """Read tokens `[start, start + length)` of several `(domain, start)` at once, int32 `[len(starts), length]`."""
        out = np.empty((len(starts), length), np.int32)
        pending = []
        for row, (domain, start) in enumerate(starts):
            array = self._array(domain, split, "tokens")
            if not 0 <= start <= start + length <= array.shape[0]:
                raise IndexError(f"tokens [{start}, {start + length}) of {domain}/{split}: it has {array.shape[0]}")
            pending.append((row, array[start : start + length].read()))
        for row, future in pending:
            out[row] = self._result(future)
        return out

    def document_starts(self, domain: str, split: Split = "train") -> np.ndarray:
        """Return each document's start in the stream, and the stream's length: int64 `[documents + 1]`."""
        return self._whole(domain, split, "starts").astype(np.int64)

    def document_text_bytes(self, domain: str, split: Split = "train") -> np.ndarray:
        """Return the number of UTF-8 bytes of each document's text, int64 `[documents]`."""
        return self._whole(domain, split, "text_bytes").astype(np.int64)

    def document_id(self, domain: str, split: Split, document: int) -> str:
        start, stop = self._result(self._array(domain, split, "id_starts")[document : document + 2].read())
        return bytes(self._result(self._array(domain, split, "ids")[int(start) : int(stop)].read())).decode()

    def document_ids(self, domain: str, split: Split = "train") -> list[str]:
        """Return the ids of all documents, in order."""
        text = self._whole(domain, split, "ids").tobytes()
        starts = self._whole(domain, split, "id_starts").astype(np.int64).tolist()
        return [text[start:stop].decode() for start, stop in itertools.pairwise(starts)]

    def document_blocks(
        self, domain: str, split: Split, tokens: int = 1 << 22
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield blocks of whole documents, in order: first, stop, and the tokens of documents [first, stop), int32.

        A block has at most `tokens` tokens, or one document.
        """
        starts = self.document_starts(domain, split)
        first, end = 0, len(starts) - 1
        while first < end:
            stop = max(first + 1, int(np.searchsorted(starts, starts[first] + tokens, side="right")) - 1)
            yield first, stop, self.read(domain, split, int(starts[first]), int(starts[stop]))
            first = stop

    def documents(self, domain: str, split: Split = "train") -> Iterator[np.ndarray]:
        """Yield the tokens of each document in order, int32; the first token is EOD."""
        starts = self.document_starts(domain, split)
        for first, stop, tokens in self.document_blocks(domain, split):
            yield from np.split(tokens, starts[first + 1 : stop] - starts[first])

    def held_out(self, domain: str, max_tokens: int) -> Iterator[HeldOutDocument]:
        """Yield whole held-out documents of a domain: at least one, and otherwise at most `max_tokens` tokens in total.

        The choice is keyed: spread over the domain, and the same in every run.
        """
        starts, sizes = self.document_starts(domain, "held_out"), self.document_text_bytes(domain, "held_out")
        if not len(sizes):
            return
        taken = 0
        for document in permute(np.arange(len(sizes)), len(sizes), round_keys(0)).tolist():
            start, stop = int(starts[document]), int(starts[document + 1])
            if taken and taken + stop - start > max_tokens:
                return
            taken += stop - start
            tokens = self.read(domain, "held_out", start, stop)
            yield HeldOutDocument(self.document_id(domain, "held_out", document), tokens, int(sizes[document]))

    def _index(self, domain: str) -> int:
        if domain not in self.domains:
            raise UserError(f"{self.address} has no domain {domain!r}; it has: {', '.join(self.domains)}")
        return self.domains.index(domain)

    def _whole(self, domain: str, split: Split, name: str) -> np.ndarray:
        return np.asarray(self._result(self._array(domain, split, name)[...].read()))

    def _array(self, domain: str, split: Split, name: str) -> Any:
        path = stream_path(self._index(domain), split, name)
        if path not in self._arrays:
            try:
                self._arrays[path] = open_array(self.address, path)
            except ValueError as error:
                raise UserError(f"{self.address} is incomplete: its array {path} cannot be opened ({error})") from error
        return self._arrays[path]

    def _result(self, future: Any) -> Any:
        try:
            return future.result()
        except ValueError as error:
            raise UserError(f"{self.address} is damaged: a chunk cannot be read ({error}); build it again") from error


def stream_path(domain: int, split: str, name: str) -> str:
    """Return the path of an array below the store's address."""
    return f"d{domain}/{split}/{name}"


def open_store(address: str) -> Store:
    """Open the token store at a directory, or gs:// or s3:// prefix. Raises UserError if there is none."""
    address = storage_address(address)
    try:
        content = read_file(address, MANIFEST)
    except ValueError as error:
        raise UserError(f"{address} cannot be read: {error}") from error
    if content is None:
        raise UserError(
            f"{address} is not a token store (it has no {MANIFEST}); "
            f"build one with: pathways-lite data build {address} TEXT..."
        )
    try:
        raw = json.loads(content)
    except ValueError as error:
        raise UserError(f"{address}/{MANIFEST} is damaged: {error}; build the store again") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise UserError(f"{address}/{MANIFEST} does not describe a token store; was another directory meant?")
    if raw.get("version") != VERSION:
        raise UserError(
            f"{address} has version {raw.get('version')} of the store format, but this program reads version "
            f"{VERSION}; build it again"
        )
    try:
        return Store(str(address), Manifest.from_json(content))
    except (TypeError, KeyError) as error:
        raise UserError(f"{address}/{MANIFEST} is damaged ({error}); build the store again") from error


def require_compatible(store: Store, data: Data, vocab_size: int) -> None:
    """Raise UserError if the store is not the one that a recipe was resolved with, or if its model cannot embed it."""
    if data.fingerprint is not None and data.fingerprint != store.fingerprint:
        raise UserError(
            f"corpus {store.address} has fingerprint {store.fingerprint[:12]}, but the recipe expects "
            f"{data.fingerprint[:12]}: it was built from other text or by another tokenizer; set data.corpus to the "
            f"right store, or data.fingerprint=none to train on this one"
        )
    if store.vocab_size > vocab_size:
        raise UserError(
            f"corpus {store.address} was built by a tokenizer of {store.vocab_size} tokens, but the model has "
            f"vocab_size={vocab_size}; set model.vocab_size to at least {store.vocab_size}, or use another corpus"
        )
