"""The protocol of all tokenizers, and two of them: bytes, and `tokenizer.json` files of HF `tokenizers`.

The third, SentencePiece, has its own module; `tokenizer_files` loads any of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pathways_lite.errors import UserError

BYTES_FILE, SENTENCEPIECE_FILE, HF_FILE = "bytes.json", "sentencepiece.model", "tokenizer.json"
EOD_FILE = "eod.json"  # {"eod": TOKEN}, beside a tokenizer whose end-of-document token the user has named
HF_COMPANIONS = ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
"""Files beside a published tokenizer.json. They are kept as they came; tokens do not depend on them."""

# Tried in this order as the end-of-document token of a tokenizer.json, which does not name it.
_EOD_NAMES = ("<eod>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")


class Tokenizer(Protocol):
    """Converts text to token ids and back. `encode` never returns `eod`, which is reserved for document boundaries."""

    kind: str
    vocab_size: int
    eod: int
    fingerprint: str  # SHA-256 of what determines the tokens

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, integers `[n]`: the fast way to encode much text."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_id(self, token: str) -> int | None:
        """Return the id of a token by its name, such as "<s>"; None where there is none of that name."""
        ...

    def token_name(self, token: int) -> str | None:
        """Return the name of an id; None where it has none."""
        ...

    def files(self) -> dict[str, bytes]:
        """Return files by name from which `tokenizer_from_files` makes the same tokenizer."""
        ...


class ByteTokenizer:
    """A tokenizer whose ids are the bytes of the UTF-8 text; 256 opens a document."""

    kind = "bytes"
    vocab_size = 257
    eod = 256
    fingerprint = hashlib.sha256(b"bytes:257:256").hexdigest()

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint16) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def token_id(self, token: str) -> int | None:
        return None

    def token_name(self, token: int) -> str | None:
        return None

    def files(self) -> dict[str, bytes]:
        return {BYTES_FILE: b'{"vocab_size": 257, "eod": 256}\n'}


def fingerprint(content: bytes, eod: str | None) -> str:
    """Return the SHA-256 of a tokenizer's file, and of the name of its end-of-document token if the user named it."""
    return hashlib.sha256(content if eod is None else content + b"\0eod:" + eod.encode()).hexdigest()


def eod_files(eod: str | None) -> dict[str, bytes]:
    """Return the file that keeps the name of the end-of-document token, if the user named it."""
    return {} if eod is None else {EOD_FILE: json.dumps({"eod": eod}, ensure_ascii=False).encode()}


class HFTokenizer:
    """The tokenizer of a `tokenizer.json`, without the special tokens that its post-processor would add.

    `eod`: the token that marks the end of a document; None: the first of the usual names that the vocabulary has.
    `companions`: files of `HF_COMPANIONS`, to be kept beside it. Raises UserError if there is no such token.
    """

    kind = "hf"

    def __init__(
        self, content: bytes, name: str, eod: str | None = None, companions: Mapping[str, bytes] | None = None
    ) -> None:
        import tokenizers

        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{name} is no tokenizer.json that the tokenizers library can read: {error}") from error
        self._content, self._eod_name, self._companions = content, eod, dict(companions or {})
        if getattr(self._tokenizer.model, "dropout", None) is not None:  # BPE dropout makes every encoding random
            self._tokenizer.model.dropout = None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # "<|endoftext|>" within a text is text, not a document boundary.
        self._tokenizer.encode_special_tokens = True
        self.fingerprint = fingerprint(content, eod)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        names = _EOD_NAMES if eod is None else (eod,)
        eods = [vocabulary[token] for token in names if token in vocabulary]
        if not eods and eod is None:
            raise UserError(
                f"{name} has no token that could mark the end of a document, none of {', '.join(_EOD_NAMES)}; "
                "name one of its tokens with --eod TOKEN"
            )
        if not eods:
            raise UserError(f"{name} has no token {eod!r} to mark the end of a document; name one that it has")
        self.eod: int = eods[0]
        self.vocab_size = max(vocabulary.values()) + 1  # not the number of entries: ids may have gaps

    def __reduce__(self) -> tuple[Any, ...]:
        return HFTokenizer, (self._content, "tokenizer.json", self._eod_name, self._companions)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode([i for i in ids if i != self.eod], skip_special_tokens=False))

    def token_id(self, token: str) -> int | None:
        id_: int | None = self._tokenizer.token_to_id(token)
        return id_

    def token_name(self, token: int) -> str | None:
        name: str | None = self._tokenizer.id_to_token(token)
        return name

    def files(self) -> dict[str, bytes]:
        return {HF_FILE: self._content} | eod_files(self._eod_name) | self._companions
