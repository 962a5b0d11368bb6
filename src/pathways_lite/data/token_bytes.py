"""The bytes that each token of a vocabulary stands for inside a text."""

from __future__ import annotations

import json
import re
from typing import Any

from pathways_lite.data.tokenizers import BYTES_FILE, HF_FILE, Tokenizer

_SPACE = "▁"  # SentencePiece's sign for a space
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes of every id below the tokenizer's vocab_size, as they are inside a text; b"" for EOD.

    A token may be a part of a character. Special tokens stand for their names, as in the text that `decode` returns.
    """
    files = tokenizer.files()
    if BYTES_FILE in files:
        known = {i: bytes([i]) for i in range(256)}
    elif HF_FILE in files:
        known = _of_tokenizer_json(json.loads(files[HF_FILE]))
    else:
        known = _of_sentencepiece(next(iter(files.values())))
    return [b"" if i == tokenizer.eod else known.get(i, b"") for i in range(tokenizer.vocab_size)]


def _of_tokenizer_json(content: dict[str, Any]) -> dict[int, bytes]:
    vocabulary = content["model"]["vocab"]
    names = (
        dict(enumerate(piece[0] for piece in vocabulary))
        if isinstance(vocabulary, list)
        else {i: name for name, i in vocabulary.items()}
    )
    decoders = _kinds(content.get("decoder"))
    if "ByteLevel" in decoders:
        letters = {letter: byte for byte, letter in byte_letters().items()}
        known = {i: _from_letters(name, letters) for i, name in names.items()}
    else:
        known = {i: _from_piece(name, falls_back="ByteFallback" in decoders) for i, name in names.items()}
    return known | {token["id"]: token["content"].encode() for token in content.get("added_tokens", ())}


def _kinds(decoder: dict[str, Any] | None) -> set[str]:
    """Return the types of a decoder of tokenizer.json, and of those that it is a sequence of."""
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*map(_kinds, decoder.get("decoders", ())))


def _from_letters(name: str, letters: dict[str, int]) -> bytes:
    if all(letter in letters for letter in name):
        return bytes(letters[letter] for letter in name)
    return name.encode()


def _from_piece(name: str, *, falls_back: bool) -> bytes:
    if falls_back and (match := _BYTE.fullmatch(name)):
        return bytes([int(match[1], 16)])
    return name.replace(_SPACE, " ").encode()


def _of_sentencepiece(content: bytes) -> dict[int, bytes]:
    import sentencepiece

    model: Any = sentencepiece.SentencePieceProcessor(model_proto=content)
    known = {}
    for i in range(model.get_piece_size()):
        if not (model.is_control(i) or model.is_unknown(i)):
            known[i] = _from_piece(model.id_to_piece(i), falls_back=model.is_byte(i))
    return known


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in byte-level vocabularies (GPT-2: Radford et al. 2019).

    Printable characters of Latin-1 stand for themselves; the others get those from U+0100 on, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in printable}
    rest = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + i) for i, byte in enumerate(rest)}
