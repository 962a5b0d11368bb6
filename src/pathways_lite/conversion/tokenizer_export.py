"""Tokenizers for transformers: those of Hugging Face as they came, bytes and SentencePiece as a tokenizer.json.

What is written adds before a text the token that opens documents here, so that a prompt is there what it is here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pathways_lite.data.control_tokens import GENERATION_CONFIG, TOKENIZER_CONFIG
from pathways_lite.data.tokenizers import (
    BYTES_FILE,
    EOD_FILE,
    HF_FILE,
    SENTENCEPIECE_FILE,
    ByteTokenizer,
    Tokenizer,
)
from pathways_lite.errors import UserError

BYTES_EOD = "<eod>"
_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType of sentencepiece_model.proto


def tokenizer_files(tokenizer: Tokenizer, opens: int | None, ends: Sequence[int], max_length: int) -> dict[str, bytes]:
    """Return the files, by name, from which transformers makes the tokenizer.

    Args:
      opens: the id before a text; None: nothing is there.
      ends: ids of which each ends a text.
      max_length: of a text in tokens, of which transformers warns when it is exceeded.

    Files that came with a tokenizer are written byte for byte; tokenizer_config.json and generation_config.json are
    made where they did not come. Raises UserError for a SentencePiece model that has no such form.
    """
    files = {name: content for name, content in tokenizer.files().items() if name not in (EOD_FILE, BYTES_FILE)}
    if SENTENCEPIECE_FILE in files:
        files["tokenizer.model"] = files.pop(SENTENCEPIECE_FILE)
    if TOKENIZER_CONFIG in files:
        return files
    if HF_FILE not in files:
        files = {HF_FILE: tokenizer_json(tokenizer, opens)} | files
    bos = tokenizer.control.bos if opens is None else opens
    last = token_name(tokenizer, ends[0])
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": last, "pad_token": last}
    config |= {"clean_up_tokenization_spaces": False, "model_max_length": max_length}
    ids: dict[str, Any] = {"eos_token_id": ends[0] if len(ends) == 1 else list(ends), "pad_token_id": ends[0]}
    if bos is not None:
        config["bos_token"], ids["bos_token_id"] = token_name(tokenizer, bos), bos
    made = {TOKENIZER_CONFIG: config, GENERATION_CONFIG: {"_from_model_config": True, **ids}}
    return {name: _json(value) for name, value in made.items()} | files


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """Return the name of a token in the files that are written."""
    if isinstance(tokenizer, ByteTokenizer):
        return BYTES_EOD
    name = tokenizer.token_name(token)
    if name is None:
        raise UserError(f"token {token}, which opens or ends a text, is none of the tokenizer's; its files disagree")
    return name


def tokenizer_json(tokenizer: Tokenizer, opens: int | None) -> bytes:
    """Return a tokenizer.json with the ids of a tokenizer of bytes or SentencePiece, which puts `opens` before a text.

    SentencePiece's BPE merges the pair whose result has the highest score, which is the order of merges here; a unigram
    model keeps its scores. Texts that hold U+2581, or a special token by name, may get other ids.
    """
    import tokenizers as hf

    converted = _of_bytes() if isinstance(tokenizer, ByteTokenizer) else _of_sentencepiece(tokenizer)
    if opens is not None:
        name = token_name(tokenizer, opens)
        converted.post_processor = hf.processors.TemplateProcessing(
            single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, opens)]
        )
    return str(converted.to_str(pretty=False)).encode()


def _of_bytes() -> Any:
    import tokenizers as hf

    tokenizer = hf.Tokenizer(hf.models.BPE(vocab={c: byte for byte, c in enumerate(_byte_characters())}, merges=[]))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    tokenizer.add_special_tokens([hf.AddedToken(BYTES_EOD, special=True, normalized=False)])
    return tokenizer


def _byte_characters() -> Iterator[str]:
    """Yield the character that stands for each byte: printable Latin-1 ones for themselves, others from U+0100 on."""
    shifted = 0
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE:
            yield chr(byte)
        else:
            yield chr(0x100 + shifted)
            shifted += 1


def _of_sentencepiece(tokenizer: Tokenizer) -> Any:
    import tokenizers as hf
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = vars(sentencepiece_model_pb2)["ModelProto"]()
    proto.ParseFromString(tokenizer.files()[SENTENCEPIECE_FILE])
    kinds, pieces = proto.SentencePiece.Type, list(proto.pieces)
    has_bytes = any(piece.type == kinds.BYTE for piece in pieces)
    unknown = next(i for i, piece in enumerate(pieces) if piece.type == kinds.UNKNOWN)
    if proto.trainer_spec.model_type == _UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in pieces]
        model: Any = hf.models.Unigram(scores, unk_id=unknown, byte_fallback=has_bytes)
    elif proto.trainer_spec.model_type == _BPE:
        made = {piece.piece: piece.score for piece in pieces if piece.type == kinds.NORMAL}
        vocabulary = {piece.piece: i for i, piece in enumerate(pieces)}
        model = hf.models.BPE(
            vocab=vocabulary, merges=merges(made), unk_token=pieces[unknown].piece, fuse_unk=True,
            byte_fallback=has_bytes,
        )  # fmt: skip
    else:
        raise UserError(
            "a SentencePiece model of words or characters has no form as a tokenizer.json; use bpe or unigram"
        )
    converted = hf.Tokenizer(model)
    spec = proto.normalizer_spec
    steps: list[Any] = [hf.normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [hf.normalizers.Strip(), hf.normalizers.Replace(hf.Regex(" {2,}"), " ")]
    steps += [hf.normalizers.Prepend("▁")] if spec.add_dummy_prefix else []
    steps += [hf.normalizers.Replace(" ", "▁")]
    converted.normalizer = hf.normalizers.Sequence(steps)
    decoders: list[Any] = [hf.decoders.Replace("▁", " "), hf.decoders.ByteFallback(), hf.decoders.Fuse()]
    decoders += [hf.decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []
    converted.decoder = hf.decoders.Sequence(decoders)
    special = [piece.piece for piece in pieces if piece.type in (kinds.CONTROL, kinds.UNKNOWN)]
    own = [piece.piece for piece in pieces if piece.type == kinds.USER_DEFINED]
    converted.add_special_tokens([hf.AddedToken(piece, special=True, normalized=False) for piece in special])
    # SentencePiece takes these out of a text before it is cut, as this library does with added tokens.
    converted.add_tokens([hf.AddedToken(piece, special=False, normalized=False) for piece in own])
    return converted


def merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return all pairs of pieces whose concatenation is a piece, by its score, the highest first; ties by their text.

    `scores`: of the pieces that merging can make. Pairs of one piece are in the order in which it is cut.
    """
    pairs = [
        (-score, piece, cut)
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return [(piece[:cut], piece[cut:]) for _, piece, cut in sorted(pairs)]


@dataclass(frozen=True)
class Comparison:
    """In how many texts the written tokenizer gives other ids than ours."""

    texts: int
    different: int
    example: str  # the beginning of a text with other ids; empty where there is none

    def __str__(self) -> str:
        """Say the result in a sentence."""
        if not self.texts:
            return "the tokenizer.json was not compared with ours, as there are no held-out documents"
        if not self.different:
            return f"the tokenizer.json gives the same ids for all {self.texts:,} held-out documents"
        return (
            f"the tokenizer.json gives other ids for {self.different:,} of {self.texts:,} held-out documents, such as "
            f"for {self.example!r}"
        )


def compare_tokenizers(tokenizer: Tokenizer, written: bytes, texts: Iterable[str]) -> Comparison:
    """Encode `texts` by a tokenizer and by the tokenizer.json that was written for it, as transformers reads it."""
    import tokenizers as hf

    other = hf.Tokenizer.from_str(written.decode())
    number, different, example = 0, 0, ""
    for text in texts:
        number += 1
        ours, theirs = tokenizer.encode(text), other.encode(text, add_special_tokens=False).ids
        if ours != theirs:
            different += 1
            example = example or _around_difference(tokenizer, text, ours, theirs)
    return Comparison(number, different, example)


def _around_difference(tokenizer: Tokenizer, text: str, ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Return the text from a little before the first other id on."""
    same = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(ours))
    begin = max(0, len(tokenizer.decode(ours[:same])) - 8)
    return text[begin : begin + 40]
