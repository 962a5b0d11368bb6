"""The token store: read tokenized documents of several domains, with random access. `assemble` writes stores.

Layout of the directory (or gs://, s3:// prefix):

    manifest.json               the content's description and fingerprint; written last, so without it there is no store
    pieces.json                 digests of the arrays' files; its own digest is in the manifest (see `pieces`)
    tokenizer/                  the tokenizer that made the tokens
    skipped.txt                 one sentence per document that could not be read
    d<domain>/<split>/tokens    the stream: every document is [EOD, t1 .. tn], or [BOS, t1 .. tn, EOS]
                     /starts    start of each document in the stream, and the stream's length
                     /text_bytes  UTF-8 bytes of each document's text
                     /ids, /id_starts  the documents' ids, UTF-8

The last five are zarr3 arrays. EOD opens a document, so the first token is predicted from EOD, the last token predicts
the next document's EOD, and nothing needs masking. A manifest that names a closing token (`closes`) says that BOS opens
a document and EOS closes it (see `document_frame`). A split without documents has no arrays.

Stores that were written before there was a pieces.json have no digests; they are read all the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from pathways_lite.data.order import permute, round_keys
from pathways_lite.data.pieces import PIECES_FILE, ArrayReader, Pieces
from pathways_lite.data.round_trip import RoundTrip
from pathways_lite.data.tokenizer_files import TOKENIZER_FILES, tokenizer_from_files
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.data.zarr_io import read_file
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError, did_you_mean, similar_path
from pathways_lite.paths import storage_address
from pathways_lite.recipe import Data

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)
FORMAT = "pathways-lite token store"
VERSION = 1
MANIFEST = "manifest.json"
ARRAYS = ("tokens", "starts", "text_bytes", "id_starts", "ids")
"""Names of a stream's arrays, in the order in which the fingerprint has their digests."""


@dataclass(frozen=True)
class Counts:
    """The size of one split of one domain."""

    documents: int
    tokens: int  # those that open and close the documents included
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
    round_trip: RoundTrip | None = None  # of a sample of the text; None for a store that was built without measuring it
    pieces: str | None = None  # SHA-256 of pieces.json; None for a store without digests
    closes: int | None = None  # id of the token that closes every document; None: `eod`, which opens the next one, does

    def to_json(self) -> bytes:
        raw = asdict(self)
        if self.closes is None:  # as it was before there were closing tokens
            del raw["closes"]
        return json.dumps(raw | {"digest": _digest_json(raw)}, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """Parse the manifest. Raises ValueError, TypeError or KeyError for one that is damaged."""
        raw = json.loads(content)
        digest = raw.pop("digest", None)
        if digest != (_digest_json(raw) if digest or raw.get("pieces") else None):
            raise ValueError("it does not match its digest")
        counts = [{split: Counts(**numbers) for split, numbers in domain.items()} for domain in raw["counts"]]
        round_trip = None if raw.get("round_trip") is None else RoundTrip(**raw["round_trip"])
        return cls(**{**raw, "counts": counts, "round_trip": round_trip})


def _digest_json(raw: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class HeldOutDocument:
    """A document that is never in training."""

    id: str
    tokens: np.ndarray  # int32 [n]; the first one opens it, and none closes it
    text_bytes: int  # UTF-8 bytes of the text that tokens[1:] encode
    is_whole: bool = True  # False for the beginning of a document


def beginning_of_document(name: str, tokens: np.ndarray, tokenizer: Tokenizer) -> HeldOutDocument:
    """Make a document of the first `tokens` of a longer one, the opening one too, up to the end of a character."""
    least = len(tokens) - 4
    text = tokenizer.decode(tokens[1:].tolist())
    while text.endswith("\ufffd") and len(tokens) > max(2, least):  # a part of a character
        tokens = tokens[:-1]
        text = tokenizer.decode(tokens[1:].tolist())
    return HeldOutDocument(name, tokens, len(text.encode()), is_whole=False)


@dataclass
class Store:
    """An open token store. Safe to read from many threads, and to send to other processes."""

    address: str
    manifest: Manifest
    _arrays: dict[str, ArrayReader] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        pieces = {"pieces": self.__dict__["pieces"]} if "pieces" in self.__dict__ else {}
        return {"address": self.address, "manifest": self.manifest, "_arrays": {}, **pieces}

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
    def is_lossy(self) -> bool:
        """True if the tokenizer is known to lose text, so that bits per byte are not a code length."""
        return self.manifest.round_trip is not None and self.manifest.round_trip.is_lossy

    @property
    def frame(self) -> DocumentFrame:
        """The ids around every document."""
        return DocumentFrame(self.manifest.eod, self.manifest.closes)

    @property
    def eod(self) -> int:
        """The id that opens every document, `frame.opens`, by its name of v0.1."""
        return self.frame.opens

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
        pending: list[tuple[int, Callable[[], np.ndarray]]] = []
        for row, (domain, start) in enumerate(starts):
            size = self.tokens(domain, split)
            if not 0 <= start <= start + length <= size:
                raise IndexError(f"tokens [{start}, {start + length}) of {domain}/{split}: it has {size}")
            if length:
                pending.append((row, self.array(domain, split, "tokens").start_reading(start, start + length)))
        for row, result in pending:
            out[row] = result()
        return out

    def document_starts(self, domain: str, split: Split = "train") -> np.ndarray:
        """Return each document's start in the stream, and the stream's length: int64 `[documents + 1]`."""
        return self._whole(domain, split, "starts").astype(np.int64)

    def document_text_bytes(self, domain: str, split: Split = "train") -> np.ndarray:
        """Return the number of UTF-8 bytes of each document's text, int64 `[documents]`."""
        return self._whole(domain, split, "text_bytes").astype(np.int64)

    def document_id(self, domain: str, split: Split, document: int) -> str:
        start, stop = self.array(domain, split, "id_starts").read(document, document + 2).tolist()
        return self.array(domain, split, "ids").read(start, stop).tobytes().decode()

    def document_ids(self, domain: str, split: Split = "train") -> list[str]:
        """Return the ids of all documents, in order."""
        text = self._whole(domain, split, "ids").tobytes()
        starts = self._whole(domain, split, "id_starts").astype(np.int64).tolist()
        return [text[start:stop].decode() for start, stop in itertools.pairwise(starts)]

    def document_blocks(
        self, domain: str, split: Split, tokens: int = 1 << 22
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield blocks of whole documents, in order: first, stop, and documents [first, stop) as they stand, int32.

        A block has at most `tokens` tokens, or one document.
        """
        starts = self.document_starts(domain, split)
        first, end = 0, len(starts) - 1
        while first < end:
            stop = max(first + 1, int(np.searchsorted(starts, starts[first] + tokens, side="right")) - 1)
            yield first, stop, self.read(domain, split, int(starts[first]), int(starts[stop]))
            first = stop

    def documents(self, domain: str, split: Split = "train") -> Iterator[np.ndarray]:
        """Yield the tokens of each document in order, int32: the opening one and the text, without a closing one."""
        starts = self.document_starts(domain, split)
        for first, stop, tokens in self.document_blocks(domain, split):
            yield from map(self.frame.from_stream, np.split(tokens, starts[first + 1 : stop] - starts[first]))

    def held_out(self, domain: str, max_tokens: int) -> Iterator[HeldOutDocument]:
        """Yield held-out documents of a domain of at most `max_tokens` tokens in total.

        The choice is keyed: spread over the domain, and the same in every run. Documents are whole, but if whole ones
        would leave more than half of `max_tokens` unused, the last one is the beginning of a long document.
        """
        starts, sizes = self.document_starts(domain, "held_out"), self.document_text_bytes(domain, "held_out")
        if not len(sizes):
            return
        taken = 0
        for document in permute(np.arange(len(sizes)), len(sizes), round_keys(0)).tolist():
            start, stop = int(starts[document]), int(starts[document + 1])
            if taken + stop - start > max_tokens:
                if 2 * taken < max_tokens:
                    yield self._beginning(domain, document, start, max_tokens - taken)
                return
            taken += stop - start
            tokens = self.frame.from_stream(self.read(domain, "held_out", start, stop))
            yield HeldOutDocument(self.document_id(domain, "held_out", document), tokens, int(sizes[document]))

    def _beginning(self, domain: str, document: int, start: int, n: int) -> HeldOutDocument:
        """Return the first `n` tokens of the text of a longer held-out document, up to the end of a character."""
        tokens = self.frame.from_stream(self.read(domain, "held_out", start, start + n + 1))
        return beginning_of_document(self.document_id(domain, "held_out", document), tokens, self.tokenizer())

    def _index(self, domain: str) -> int:
        if domain not in self.domains:
            raise UserError(f"{self.address} has no domain {domain!r}.{did_you_mean(domain, self.domains)}")
        return self.domains.index(domain)

    def _whole(self, domain: str, split: Split, name: str) -> np.ndarray:
        if not self.counts(domain, split).documents:
            return np.zeros(1 if name in ("starts", "id_starts") else 0, np.uint8 if name == "ids" else np.uint64)
        return self.array(domain, split, name).read_whole()

    def array(self, domain: str, split: Split, name: str) -> ArrayReader:
        """Return one of `ARRAYS` of a split that has documents. Raises UserError if it cannot be opened."""
        path = stream_path(self._index(domain), split, name)
        if path not in self._arrays:
            counts = self.counts(domain, split)
            n = counts.documents
            lengths = {"tokens": counts.tokens, "starts": n + 1, "text_bytes": n, "id_starts": n + 1}
            self._arrays[path] = ArrayReader(self.address, path, self._pieces_of(path), lengths.get(name))
        return self._arrays[path]

    def _pieces_of(self, path: str) -> Pieces | None:
        if self.pieces is None:
            return None
        if path not in self.pieces:
            raise UserError(f"{self.address} is damaged: {PIECES_FILE} does not know the array {path}; build it again")
        return self.pieces[path]

    @cached_property
    def pieces(self) -> dict[str, Pieces] | None:
        """Records of the arrays' files by path; None for a store without. Raises UserError if they are damaged."""
        if self.manifest.pieces is None:
            return None
        content = read_file(self.address, PIECES_FILE)
        if content is None or hashlib.sha256(content).hexdigest() != self.manifest.pieces:
            problem = "is missing" if content is None else "is not the one that was written"
            raise UserError(
                f"{self.address} is damaged: its file {PIECES_FILE} {problem}; copy it again, or build the store again"
            )
        return {path: Pieces(**record) for path, record in json.loads(content).items()}


def stream_path(domain: int, split: str, name: str) -> str:
    """Return the path of an array below the store's address."""
    return f"d{domain}/{split}/{name}"


def store_fingerprint(
    domains: list[str], tokenizer: str, frame: DocumentFrame, digests: Mapping[str, list[str]]
) -> str:
    """Return the SHA-256 of a store's content: equal for equal text and tokenizer, however the store was built.

    Args:
      tokenizer: its fingerprint.
      digests: by stream (domain index/split), the SHA-256 of each of `ARRAYS`.
    """
    content = {"version": VERSION, "tokenizer": tokenizer, "eod": frame.opens, "domains": domains, "streams": digests}
    if frame.closes is not None:
        content["closes"] = frame.closes
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class MissingStoreError(UserError):
    """There is no token store at an address: it was never built, or it has been moved or deleted."""


def find_store(address: str, directory: str | None) -> str:
    """Return the address of a store that a process in `directory` named: as it is, or from there where it is not here.

    `directory`: None where it is not known.
    """
    if directory is None or "://" in address or Path(address).is_absolute() or (Path(address) / MANIFEST).is_file():
        return address
    there = Path(directory) / address
    return str(there) if (there / MANIFEST).is_file() else address


def open_store(address: str) -> Store:
    """Open the token store at a directory, or gs:// or s3:// prefix. Raises MissingStoreError if there is none."""
    address = storage_address(address)
    try:
        content = read_file(address, MANIFEST)
    except ValueError as error:
        raise UserError(f"{address} cannot be read: {error}") from error
    if content is None and read_file(address, "recipe.json") is not None:
        raise UserError(
            f"{address} is a run, not a corpus; a run is shown by: pathways-lite runs {address}, its checkpoint by: "
            f"pathways-lite inspect {address}"
        )
    if content is None:
        raise MissingStoreError(
            f"{address} is not a token store (it has no {MANIFEST}); "
            f"build one with: pathways-lite data build {address} TEXT{similar_path(address)}"
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
    except (TypeError, KeyError, ValueError, AttributeError) as error:
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
