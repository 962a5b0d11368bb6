"""Shards: the tokenized documents of consecutive input chunks, in a temporary file each. `workers` writes them."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.atomic_file import replace_atomically
from pathways_lite.data.documents import Document, InputChunk, Skipped
from pathways_lite.data.round_trip import RoundTrip, RoundTripSampler
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError, did_you_mean

_BATCH_CHARACTERS = 1 << 20  # of text encoded at once


@dataclass(frozen=True)
class ShardSpec:
    """The input of one shard: chunks, each with the number of its source."""

    number: int
    chunks: tuple[tuple[int, InputChunk], ...]
    frame: DocumentFrame  # the tokens around its documents

    @property
    def input_bytes(self) -> int:
        return sum(chunk.input_bytes for _, chunk in self.chunks)


@dataclass(frozen=True)
class Shard:
    """D documents of N tokens. All but `tokens` is small and can be read alone."""

    domains: list[str]  # of this shard's documents
    domain: np.ndarray  # int64 [D], index into `domains`
    source: np.ndarray  # int64 [D], number of the source
    group: np.ndarray  # uint64 [D], hash of the group
    length: np.ndarray  # int64 [D], tokens, those around the document included
    text_bytes: np.ndarray  # int64 [D]
    ids: list[str]
    skipped: list[tuple[int, str]]  # number of the source, sentence
    tokens: np.ndarray  # [N], of the documents in their frame
    skipped_documents: int = 0  # at least as many as sentences about them, as one may tell of a whole row group
    round_trip: RoundTrip = RoundTrip()  # noqa: RUF009  frozen

    def save(self, path: Path) -> None:
        """Write the file atomically: if it exists, it is complete."""
        small = {name: getattr(self, name) for name in ("domains", "ids", "skipped", "skipped_documents")}
        meta = json.dumps(small | {"round_trip": asdict(self.round_trip)})
        names = ("domain", "source", "group", "length", "text_bytes", "tokens")
        arrays = {name: getattr(self, name) for name in names}
        with replace_atomically(path, shared=True) as temporary, temporary.open("wb") as file:
            np.savez(file, meta=np.frombuffer(meta.encode(), np.uint8), **arrays)

    @classmethod
    def load(cls, path: Path, *, tokens: bool) -> Shard:
        """Read what `save` wrote; without `tokens`, that array is empty."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name not in ("meta", "tokens")}
            meta = json.loads(bytes(file["meta"]).decode())
            token_array = file["tokens"] if tokens else np.zeros(0, np.uint16)
        meta["skipped"] = [(source, sentence) for source, sentence in meta["skipped"]]
        meta["round_trip"] = RoundTrip(**meta.get("round_trip", {}))
        return cls(**meta, **arrays, tokens=token_array)


def load_whole_shard(path: Path) -> Shard | None:
    """Load a shard without its tokens; None if there is no file, or one with a byte that is not as it was written."""
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:  # compares all checksums
                return None
        return Shard.load(path, tokens=False)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
        return None


@dataclass(frozen=True)
class ShardCounts:
    """Sizes of what has been tokenized, for progress reports."""

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    skipped: int = 0
    input_bytes: int = 0

    def __add__(self, other: ShardCounts) -> ShardCounts:
        return ShardCounts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def count_documents(shard: Shard, input_bytes: int) -> ShardCounts:
    """Return the counts of a shard made from `input_bytes` of input."""
    tokens, text_bytes = int(shard.length.sum()), int(shard.text_bytes.sum())
    return ShardCounts(len(shard.ids), tokens, text_bytes, shard.skipped_documents, input_bytes)


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest unsigned type that holds every id."""
    return np.min_scalar_type(vocab_size - 1)


def group_hash(group: str) -> int:
    """Return the 64-bit hash that decides whether a group is held out; the same on every machine and in every run."""
    return int.from_bytes(blake2b(group.encode(), digest_size=8, person=b"held-out").digest(), "big")


def tokenize(spec: ShardSpec, tokenizer: Tokenizer) -> Shard:
    """Read the chunks of a shard and encode their documents."""
    builder = _ShardBuilder(tokenizer, spec.frame)
    for source, chunk in spec.chunks:
        for item in chunk.read():
            if isinstance(item, Skipped):
                builder.skip(source, item)
            else:
                builder.add(source, item)
    return builder.build()


class _ShardBuilder:
    """Encodes documents in batches and concatenates their tokens."""

    def __init__(self, tokenizer: Tokenizer, frame: DocumentFrame) -> None:
        self._tokenizer, self._frame = tokenizer, frame
        self._sampler = RoundTripSampler(tokenizer)
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._pending: list[tuple[int, Document]] = []
        self._pending_characters = 0
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._ids: list[str] = []
        self._domains: dict[str, int] = {}
        self._tokens: list[np.ndarray] = []
        self._skipped: list[tuple[int, str]] = []
        self._skipped_documents = 0

    def skip(self, source: int, skipped: Skipped) -> None:
        self._skipped.append((source, skipped.sentence))
        self._skipped_documents += skipped.documents

    def add(self, source: int, document: Document) -> None:
        self._pending.append((source, document))
        self._pending_characters += len(document.text)
        if self._pending_characters >= _BATCH_CHARACTERS:
            self._encode_pending()

    def _encode_pending(self) -> None:
        opens, closes = np.array([self._frame.opens], self._dtype), np.array(self._frame.ids[1:], self._dtype)
        encoded = self._tokenizer.encode_batch([document.text for _, document in self._pending])
        for (source, document), ids in zip(self._pending, encoded, strict=True):
            if (is_frame := self._frame.is_frame(ids)).any():
                what = "the token that opens or closes documents, id"
                if self._frame.closes is None:
                    what = "the tokenizer's end-of-document token"
                sentence = f"{document.id}: the text encodes to {what} {ids[is_frame][0]}"
                self.skip(source, Skipped(sentence))
                continue
            self._sampler.add(document.text)
            domain = self._domains.setdefault(document.domain, len(self._domains))
            text_bytes = len(document.text.encode())
            self._rows.append((domain, source, group_hash(document.group), len(ids) + self._frame.size, text_bytes))
            self._ids.append(document.id)
            self._tokens += [opens, ids.astype(self._dtype, copy=False), closes]
        self._pending, self._pending_characters = [], 0

    def build(self) -> Shard:
        self._encode_pending()
        columns = list(zip(*self._rows, strict=True)) or [()] * 5
        domain, source, group, length, text_bytes = columns
        return Shard(
            domains=list(self._domains),
            domain=np.array(domain, np.int64),
            source=np.array(source, np.int64),
            group=np.array(group, np.uint64),
            length=np.array(length, np.int64),
            text_bytes=np.array(text_bytes, np.int64),
            ids=self._ids,
            skipped=self._skipped,
            skipped_documents=self._skipped_documents,
            tokens=np.concatenate([np.zeros(0, self._dtype), *self._tokens]),
            round_trip=self._sampler.result,
        )


# ---- the held-out split ----


@dataclass(frozen=True)
class HeldOutShares:
    """Shares of the documents that are held out: one for all domains, and others for some of them."""

    share: float
    by_domain: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, share in (("", self.share), *self.by_domain.items()):
            if not 0 <= share < 1:
                domain = f"{name}=" if name else ""
                raise UserError(f"held_out={domain}{share} must be at least 0 and below 1, e.g. {domain}0.01 for 1 %")

    def to_json(self) -> Any:
        """Return the share alone where it is the only one."""
        return {"share": self.share, "domains": dict(self.by_domain)} if self.by_domain else self.share

    def of(self, domains: Sequence[str]) -> np.ndarray:
        """Return the shares of the domains, [domains]. Raises UserError for a share of a domain that is not there."""
        if unknown := sorted(set(self.by_domain) - set(domains)):
            raise UserError(
                f"--held-out names the domain {unknown[0]}, of which there is no document."
                f"{did_you_mean(unknown[0], domains)}. What was tokenized is kept: give the command with one of these"
            )
        return np.array([self.by_domain.get(name, self.share) for name in domains])


def held_out_text(held_out: Any) -> str:
    """Return in words what a plan says is held out: a share, shares by domain, or sources."""
    if isinstance(held_out, Mapping):
        by_domain = ", ".join(f"{100 * share:g} % of {name}" for name, share in held_out["domains"].items())
        return f"{100 * held_out['share']:g} %, {by_domain}"
    return f"{100 * held_out:g} %" if isinstance(held_out, int | float) else ", ".join(map(str, held_out or ()))


def select_held_out(domain: np.ndarray, group: np.ndarray, share: float | np.ndarray) -> np.ndarray:
    """Select the held-out documents, bool `[D]`: those whose group's hash is in the lowest `share` of all hashes.

    The selection depends on the groups' names only, so the same documents are held out in every corpus. A group with
    documents in several domains goes by the largest of their shares. Small domains are exceptions: if a domain would
    have no training document, its group with the largest hash goes to training; if it would have none held out, its
    group with the smallest hash is, as long as every domain keeps something to train on. With `share` 0 nothing of a
    domain is held out, except what belongs to a group of another.

    Args:
      domain: integers `[D]`.
      group: uint64 `[D]`, hashes.
      share: in [0, 1), of all domains or by domain, `[domains]`.
    """
    groups, group_index = np.unique(group, return_inverse=True)
    largest = np.zeros(len(groups))
    document_share = np.broadcast_to(share, domain.shape) if np.ndim(share) == 0 else np.asarray(share)[domain]
    np.maximum.at(largest, group_index, document_share)
    limits = np.array([min(int(value * 2.0**64), 2**64 - 1) for value in np.unique(largest)], np.uint64)
    held = group < limits[np.searchsorted(np.unique(largest), largest)][group_index]
    domains = [d for d in np.unique(domain) if document_share[domain == d].any()]
    for d in np.unique(domain):
        if held[domain == d].all():
            held &= group != group[domain == d].max()
    for d in domains:
        in_domain = domain == d
        if held[in_domain].any():
            continue
        for candidate in np.unique(group[in_domain]):
            with_candidate = held | (group == candidate)
            if all((~with_candidate[domain == other]).any() for other in np.unique(domain[group == candidate])):
                held = with_candidate
                break
    return held
