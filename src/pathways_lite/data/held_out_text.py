"""Held-out documents without their corpus: what an evaluation reads, in one small file.

A checkpoint carries this file, so that the model can be evaluated where the corpus is not. It holds exactly the
documents that `Store.held_out` chooses for a number of tokens, in their order, so that the losses are the same.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pathways_lite.data.store import HeldOutDocument, Store, beginning_of_document
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError

FORMAT = 1


class HeldOutSource(Protocol):
    """Where an evaluation finds its documents and their tokenizer: a `Store`, or a `HeldOutText`."""

    @property
    def address(self) -> str: ...
    @property
    def domains(self) -> list[str]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def frame(self) -> DocumentFrame: ...
    @property
    def is_lossy(self) -> bool: ...
    def tokenizer(self) -> Tokenizer: ...
    def held_out(self, domain: str, max_tokens: int) -> Iterator[HeldOutDocument]: ...


@dataclass(frozen=True)
class HeldOutText:
    """The held-out documents of all domains of a corpus that an evaluation with `tokens` tokens per domain reads.

    `complete`: the domains of which these are all held-out documents.
    """

    address: str  # where it was found, for messages
    tokens: int
    domains: list[str]
    complete: tuple[str, ...]
    vocab_size: int
    is_lossy: bool
    documents: dict[str, list[HeldOutDocument]]
    text_tokenizer: Tokenizer
    frame: DocumentFrame

    @classmethod
    def of_store(cls, store: Store, tokens: int) -> HeldOutText:
        """Read the documents from a corpus."""
        documents = {domain: list(store.held_out(domain, tokens)) for domain in store.domains}
        complete = tuple(
            domain
            for domain, chosen in documents.items()
            if len(chosen) == store.counts(domain, "held_out").documents and all(d.is_whole for d in chosen)
        )
        return cls(
            store.address,
            tokens,
            list(store.domains),
            complete,
            store.vocab_size,
            store.is_lossy,
            documents,
            store.tokenizer(),
            store.frame,
        )

    @classmethod
    def of_texts(
        cls,
        texts: Mapping[str, str],
        tokenizer: Tokenizer,
        frame: DocumentFrame,
    ) -> HeldOutText:
        """Make each text a domain of one document. `frame`: the tokens around documents."""
        documents, is_lossy = {}, False
        for (name, text), ids in zip(texts.items(), tokenizer.encode_batch(list(texts.values())), strict=True):
            is_lossy |= tokenizer.decode(ids.tolist()) != text
            tokens = np.concatenate([[frame.opens], ids]).astype(np.int32)
            documents[name] = [HeldOutDocument(name, tokens, len(text.encode()))]
        longest = max((len(document.tokens) - 1 + frame.size for (document,) in documents.values()), default=0)
        names = list(documents)
        return cls(
            "the text", longest, names, tuple(names), tokenizer.vocab_size, is_lossy, documents, tokenizer, frame
        )

    def tokenizer(self) -> Tokenizer:
        return self.text_tokenizer

    def serves(self, tokens: int) -> bool:
        """Return whether an evaluation with `tokens` tokens per domain reads only documents that are here."""
        return tokens <= self.tokens or set(self.complete) == set(self.domains)

    def held_out(self, domain: str, max_tokens: int) -> Iterator[HeldOutDocument]:
        """Yield the documents that `Store.held_out` does. Raises UserError where they are not all here."""
        if max_tokens > self.tokens and domain not in self.complete:
            raise UserError(
                f"{self.address} holds the {self.tokens:,} held-out tokens per domain that the stage was evaluated on; "
                f"to evaluate on {max_tokens:,}, name the corpus with --corpus"
            )
        taken = 0
        for document in self.documents[domain]:
            stored = len(document.tokens) - 1 + self.frame.size
            if document.is_whole and taken + stored <= max_tokens:
                taken += stored
                yield document
                continue
            tokens = document.tokens[: max_tokens - taken + 1]
            if len(tokens) == len(document.tokens) and not document.is_whole:
                yield document
            elif 2 * taken < max_tokens:
                yield beginning_of_document(document.id, tokens, self.text_tokenizer)
            return

    # ---- the file ----

    def to_bytes(self) -> bytes:
        """Serialize, the same bytes for the same documents; readable by `numpy.load`."""
        documents = [document for domain in self.domains for document in self.documents[domain]]
        ids = [document.id.encode() for document in documents]
        header = {
            "format": FORMAT,
            "tokens": self.tokens,
            "domains": self.domains,
            "documents": [len(self.documents[domain]) for domain in self.domains],
            "complete": list(self.complete),
            "vocab_size": self.vocab_size,
            "is_lossy": self.is_lossy,
            "tokenizer": self.text_tokenizer.fingerprint,
        }
        tokens = np.concatenate([np.zeros(0, np.int32), *(document.tokens for document in documents)])
        arrays = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "tokens": tokens.astype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32),
            "lengths": np.array([len(document.tokens) for document in documents], np.int64),
            "text_bytes": np.array([document.text_bytes for document in documents], np.int64),
            "is_whole": np.array([document.is_whole for document in documents], bool),
            "ids": np.frombuffer(b"".join(ids), np.uint8),
            "id_lengths": np.array([len(id_) for id_ in ids], np.int64),
        }
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, tokenizer: Tokenizer, frame: DocumentFrame, address: str) -> HeldOutText:
        """Parse what `to_bytes` wrote. Raises UserError, with `address`, for anything else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays: dict[str, Any] = {name: file[name] for name in file.files}
            header = json.loads(arrays["header"].tobytes())
            if header["format"] != FORMAT:
                raise ValueError(f"it has format {header['format']}, this version reads format {FORMAT}")
            documents = list(_documents(arrays))
            per_domain, first = {}, 0
            for domain, count in zip(header["domains"], header["documents"], strict=True):
                per_domain[domain], first = documents[first : first + count], first + count
            if first != len(documents):
                raise ValueError("its documents are not those that it lists")
            fields = header["tokens"], header["domains"], tuple(header["complete"])
            sizes = header["vocab_size"], header["is_lossy"]
            made_by = header["tokenizer"]
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{address} is no held-out text: {error}; name a corpus with --corpus") from error
        if made_by != tokenizer.fingerprint:
            raise UserError(
                f"{address} was made by tokenizer {made_by[:12]}, beside it is {tokenizer.fingerprint[:12]}; "
                "name a corpus with --corpus"
            )
        return cls(address, *fields, *sizes, per_domain, tokenizer, frame)


def _documents(arrays: dict[str, np.ndarray]) -> Iterator[HeldOutDocument]:
    ids = arrays["ids"].tobytes()
    starts = np.concatenate([[0], np.cumsum(arrays["lengths"])]).tolist()
    id_starts = np.concatenate([[0], np.cumsum(arrays["id_lengths"])]).tolist()
    if starts[-1] != len(arrays["tokens"]) or id_starts[-1] != len(ids):
        raise ValueError("its documents are not as long as it says")
    columns: Sequence[Any] = arrays["text_bytes"].tolist(), arrays["is_whole"].tolist()
    for i, (text_bytes, is_whole) in enumerate(zip(*columns, strict=True)):
        tokens = arrays["tokens"][starts[i] : starts[i + 1]].astype(np.int32)
        yield HeldOutDocument(ids[id_starts[i] : id_starts[i + 1]].decode(), tokens, text_bytes, is_whole)
