"""Tokenizers behind one protocol: bytes, SentencePiece, and tokenizer.json files of HF `tokenizers`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pathways_lite.errors import UserError

BYTES_FILE, SENTENCEPIECE_FILE, HF_FILE = "bytes.json", "sentencepiece.model", "tokenizer.json"
TOKENIZER_FILES = (BYTES_FILE, SENTENCEPIECE_FILE, HF_FILE)

# Tried in this order as the end-of-document token of a tokenizer.json, which does not say which it is.
_EOD_NAMES = ("<eod>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")


class Tokenizer(Protocol):
    """Text to token ids and back. `encode` never produces `eod`, which is reserved for document boundaries."""

    kind: str
    vocab_size: int
    eod: int
    fingerprint: str  # SHA-256 of what determines the tokens

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, integers `[n]`; the fast way to encode much text."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def files(self) -> dict[str, bytes]:
        """What `tokenizer_from_files` makes the same tokenizer of, by file name."""
        ...


class ByteTokenizer:
    """Token i is byte i of the UTF-8 text; 256 opens a document."""

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

    def files(self) -> dict[str, bytes]:
        return {BYTES_FILE: b'{"vocab_size": 257, "eod": 256}\n'}


class HFTokenizer:
    """A `tokenizer.json`, without the special tokens that its post-processor would add."""

    kind = "hf"

    def __init__(self, content: bytes, name: str) -> None:
        import tokenizers

        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{name} is no tokenizer.json that the tokenizers library can read: {error}") from error
        self._content = content
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # "<|endoftext|>" within a text is text, not a document boundary.
        self._tokenizer.encode_special_tokens = True
        self.fingerprint = hashlib.sha256(content).hexdigest()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        eods = [vocabulary[token] for token in _EOD_NAMES if token in vocabulary]
        if not eods:
            raise UserError(
                f"{name} has no token that could mark the end of a document; it needs one of: {', '.join(_EOD_NAMES)}"
            )
        self.eod: int = eods[0]
        self.vocab_size = max(vocabulary.values()) + 1  # not the number of entries: ids may have gaps

    def __reduce__(self) -> tuple[Any, ...]:
        return HFTokenizer, (self._content, "tokenizer.json")

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode([i for i in ids if i != self.eod], skip_special_tokens=False))

    def files(self) -> dict[str, bytes]:
        return {HF_FILE: self._content}


def tokenizer_from_files(files: Mapping[str, bytes], name: str) -> Tokenizer:
    """The tokenizer whose `files()` these are. `name` is what errors call it."""
    if BYTES_FILE in files:
        return ByteTokenizer()
    if SENTENCEPIECE_FILE in files:
        from pathways_lite.data.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(files[SENTENCEPIECE_FILE], name)
    if HF_FILE in files:
        return HFTokenizer(files[HF_FILE], name)
    raise UserError(f"{name} holds no tokenizer; expected one of: {', '.join(TOKENIZER_FILES)}")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A tokenizer from a `.model` file, a `tokenizer.json` file, or a directory that holds one.

    A token store is such a directory too. Raises UserError.
    """
    path = Path(path)
    if path.is_dir():
        home = path / "tokenizer" if (path / "tokenizer").is_dir() else path
        files = {name: (home / name).read_bytes() for name in TOKENIZER_FILES if (home / name).is_file()}
        models = sorted(home.glob("*.model"))
        if not files and len(models) == 1:
            files = {SENTENCEPIECE_FILE: models[0].read_bytes()}
        return tokenizer_from_files(files, str(home))
    if not path.is_file():
        raise UserError(f"{path}: no such file; a tokenizer is bytes, sentencepiece:SIZE, a .model or a tokenizer.json")
    if path.suffix not in (".model", ".json"):
        raise UserError(f"{path} is no tokenizer file; expected a SentencePiece .model or an HF tokenizer.json")
    kind = SENTENCEPIECE_FILE if path.suffix == ".model" else HF_FILE
    return tokenizer_from_files({kind: path.read_bytes()}, str(path))


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write the tokenizer so that `load_tokenizer(directory)` gives it back."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer.files().items():
        (directory / name).write_bytes(content)
