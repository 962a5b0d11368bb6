"""The protocol of all tokenizers, and two of them: bytes, and `tokenizer.json` files of HF `tokenizers`.

The third, SentencePiece, has its own module; `tokenizer_files` loads any of them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from pathways_lite.data.control_tokens import (
    ADDED_TOKENS,
    GENERATION_CONFIG,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    ControlTokens,
    adds_bos_token,
    read_control_tokens,
)
from pathways_lite.errors import UserError

BYTES_FILE, SENTENCEPIECE_FILE, HF_FILE = "bytes.json", "sentencepiece.model", "tokenizer.json"
EOD_FILE = "eod.json"  # {"eod": TOKEN}, beside a tokenizer whose end-of-document token the user has named
HF_COMPANIONS = (
    TOKENIZER_CONFIG, GENERATION_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, "chat_template.jinja", "chat_template.json",
    "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip
"""Files beside a published tokenizer. They are kept as they came; the ids of a text do not depend on them."""

# Tried in this order as the end-of-document token of a tokenizer.json, which does not name it.
_EOD_NAMES = ("<eod>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")


class Tokenizer(Protocol):
    """Converts text to token ids and back. `encode` never returns `eod`, which is reserved for document boundaries."""

    kind: str
    vocab_size: int
    eod: int
    fingerprint: str  # SHA-256 of what determines the tokens

    @property
    def control(self) -> ControlTokens:
        """The tokens that stand for no text, as the files of the tokenizer name them; without files EOD is its EOS."""
        ...

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
    control = ControlTokens(eos=(256,))

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


def document_end(
    control: ControlTokens, token_of: Callable[[int], str | None], special: Collection[str] = ()
) -> str | None:
    """Return the token that ends a document, given the EOS tokens of a tokenizer; None where it names none.

    That is the EOS with one of the usual names. The EOS of models that chat may only end turns: then it is the one of
    the usual names among the `special` tokens, which ended documents before the model learned to chat, or else an EOS.
    (SmolLM2-135M-Instruct: 3.07 nats per token on short texts opened by <|endoftext|>, 3.19 by its EOS, <|im_end|>.)
    """
    tokens = [token for token in map(token_of, control.eos) if token is not None]
    if not tokens:
        return None
    return next((name for names in (tokens, special) for name in _EOD_NAMES if name in names), tokens[0])


class HFTokenizer:
    """The tokenizer of a `tokenizer.json`, without the special tokens that its post-processor would add.

    Args:
      eod: the token that marks the end of a document; None: the first of the usual names that the vocabulary has.
      companions: files of `HF_COMPANIONS`, to be kept beside it.
      published: without `eod`, take the EOS that `companions` name before the usual names.

    Raises UserError if there is no such token.
    """

    kind = "hf"

    def __init__(
        self,
        content: bytes,
        name: str,
        eod: str | None = None,
        companions: Mapping[str, bytes] | None = None,
        *,
        published: bool = False,
    ) -> None:
        import tokenizers

        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{name} is no tokenizer.json that the tokenizers library can read: {error}") from error
        self._content, self._companions = content, dict(companions or {})
        if getattr(self._tokenizer.model, "dropout", None) is not None:  # BPE dropout makes every encoding random
            self._tokenizer.model.dropout = None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # "<|endoftext|>" within a text is text, not a document boundary.
        self._tokenizer.encode_special_tokens = True
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        if eod is None and published:
            added = self._tokenizer.get_added_tokens_decoder().values()
            special = {token.content for token in added if token.special}
            named = document_end(self._named_control(name), self.token_name, special)
            # Only a name that is not the usual one is part of the fingerprint.
            eod = named if named != next((t for t in _EOD_NAMES if t in vocabulary), None) else None
        self._eod_name, self.fingerprint = eod, fingerprint(content, eod)
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

    @functools.cached_property
    def control(self) -> ControlTokens:
        control = self._named_control("the tokenizer")
        # The post-processor says what is added before a text; files without one leave it to tokenizer_config.json.
        probe = self._tokenizer.encode("a", add_special_tokens=True)
        is_text = [not special for special in probe.special_tokens_mask]
        prefix = tuple(probe.ids[: is_text.index(True)] if any(is_text) else ())
        if not prefix and control.bos is not None and adds_bos_token(self._companions, "the tokenizer"):
            prefix = (control.bos,)
        return replace(control, eos=control.eos or (self.eod,), prefix=prefix)

    def _named_control(self, name: str) -> ControlTokens:
        return read_control_tokens(self._companions, self._tokenizer.token_to_id, name)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_with_special(self, text: str) -> list[int]:
        """Return the ids of a text in which the names of special tokens stand for these, as in that of a chat."""
        return list(self._reads_special.encode(text, add_special_tokens=False).ids)

    @functools.cached_property
    def _reads_special(self) -> Any:
        import tokenizers

        copy = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        copy.encode_special_tokens = False
        return copy

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
