"""The tokenizer in a GGUF file's metadata, as tokenizer.json and the files beside it.

Two kinds are written: BPE on bytes (`gpt2`), with the pre-tokenizer that the file names, and SentencePiece's BPE
(`llama`), as BPE that falls back to bytes. What the names mean is in llama.cpp's `src/llama-vocab.cpp`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pathways_lite.conversion.gguf_config import special_ids
from pathways_lite.data.tokenizers import HF_FILE

UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5
"""Values of `tokenizer.ggml.token_type` that are not plain pieces (1) or single bytes (6)."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = _WORDS + r"\p{N}{1,3}" + _REST, _WORDS + r"\p{N}" + _REST
_LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_CASED = _LETTERS + r"*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|" + _LETTERS + r"+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = _CASED % ("", "") + r"\p{N}" + _TAIL
_GPT4O = _CASED % (("(?i:'s|'t|'re|'ve|'m|'ll|'d)?",) * 2) + r"\p{N}{1,3}" + _TAIL
_GPT2, _DIGITS = "gpt2", "digits"  # the library has these two by name

# Values of `tokenizer.ggml.pre`; how text is cut; whether words that are tokens are left whole; Unicode's form.
_CUTS: tuple[tuple[tuple[str, ...], str, bool, str | None], ...] = (
    (("gpt-2", "phi-2", "mpt"), _GPT2, False, None),
    (("olmo",), _GPT2, False, "NFC"),
    (("smollm", "starcoder", "refact", "codeshell", "exaone"), _DIGITS, False, None),
    (("command-r",), _DIGITS, False, "NFC"),
    (("llama3", "llama-v3", "llama-bpe", "falcon3"), _LLAMA3, True, None),
    (("dbrx", "smaug-bpe"), _LLAMA3, False, None),
    (("qwen2", "deepseek-r1-qwen"), _QWEN2, False, "NFC"),
    (("tekken",), _TEKKEN, True, None),
    (("gpt-4o", "llama4"), _GPT4O, False, None),
)
_PRE = {name: (cut, whole, form) for names, cut, whole, form in _CUTS for name in names}


def tokenizer_files(values: Mapping[str, Any]) -> tuple[dict[str, bytes], str]:
    """Return tokenizer.json, tokenizer_config.json and generation_config.json by name, or none and the reason.

    Args:
      values: the metadata of the file.
    """
    kind, pieces = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.tokens")
    if "tokenizer.huggingface.json" in values:
        return {HF_FILE: values["tokenizer.huggingface.json"].encode(), **_companions(values)}, ""
    if not pieces:
        return {}, "the file holds none"
    types = [int(kind) for kind in values.get("tokenizer.ggml.token_type", [1] * len(pieces))]
    if kind == "gpt2":
        pre = values.get("tokenizer.ggml.pre")
        if pre not in _PRE:
            return {}, f"how its pre-tokenizer {pre!r} cuts text is not known here"
        content = _byte_level(pieces, types, values.get("tokenizer.ggml.merges", []), pre)
    elif kind == "llama" and len(values.get("tokenizer.ggml.scores", [])) == len(pieces):
        prefix = bool(values.get("tokenizer.ggml.add_space_prefix", True))
        content = _sentencepiece(pieces, types, [float(score) for score in values["tokenizer.ggml.scores"]], prefix)
    else:
        return {}, f"tokenizers of the kind {kind!r} are not read here"
    return {HF_FILE: json.dumps(content, ensure_ascii=False).encode(), **_companions(values)}, ""


def _companions(values: Mapping[str, Any]) -> dict[str, bytes]:
    pieces = values.get("tokenizer.ggml.tokens", [])
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        number = values.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None and number < len(pieces):
            config[f"{name}_token"] = pieces[number]
    # Where the file does not say, llama.cpp adds BOS for SentencePiece and for Llama 3.
    cut, _, _ = _PRE.get(str(values.get("tokenizer.ggml.pre")), ("", False, None))
    adds_bos = values.get("tokenizer.ggml.model") == "llama" or cut == _LLAMA3
    config["add_bos_token"] = values.get("tokenizer.ggml.add_bos_token", adds_bos)
    config["add_eos_token"] = values.get("tokenizer.ggml.add_eos_token", False)
    if "tokenizer.chat_template" in values:
        config["chat_template"] = values["tokenizer.chat_template"]
    config["model_max_length"] = values.get(f"{values.get('general.architecture')}.context_length")
    files = {"tokenizer_config.json": config, "generation_config.json": special_ids(values)}
    return {name: (json.dumps(file, ensure_ascii=False, indent=2) + "\n").encode() for name, file in files.items()}


def _tokenizer_json(pieces: list[str], types: list[int], model: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """Return tokenizer.json. Unused pieces are left out, as the rows of the embedding that pad it."""
    added = [
        {"id": i, "content": pieces[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": kind != USER_DEFINED}
        for i, kind in enumerate(types) if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]  # fmt: skip
    vocabulary = {piece: i for i, (piece, kind) in enumerate(zip(pieces, types, strict=True)) if kind != UNUSED}
    common = {"type": "BPE", "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "post_processor": None, **parts,
        "model": common | model | {"vocab": vocabulary},
    }  # fmt: skip


def _byte_level(pieces: list[str], types: list[int], merges: list[str], pre: str) -> dict[str, Any]:
    cut, ignore_merges, form = _PRE[pre]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": cut in (_GPT2, _DIGITS),
    }
    steps: list[dict[str, Any]] = [byte_level]
    if cut == _DIGITS:
        steps.insert(0, {"type": "Digits", "individual_digits": True})
    elif cut != _GPT2:
        steps.insert(0, {"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False})
    return _tokenizer_json(
        pieces,
        types,
        {"unk_token": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges,
         "merges": [pair.split(" ", 1) for pair in merges]},
        normalizer=None if form is None else {"type": form},
        pre_tokenizer={"type": "Sequence", "pretokenizers": steps},
        decoder=byte_level | {"use_regex": True},
    )  # fmt: skip


def _sentencepiece(pieces: list[str], types: list[int], scores: list[float], prefix: bool) -> dict[str, Any]:
    space = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    text: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    if prefix:
        space.insert(0, {"type": "Prepend", "prepend": "▁"})
        text.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = next((piece for piece, kind in zip(pieces, types, strict=True) if kind == UNKNOWN), None)
    return _tokenizer_json(
        pieces,
        types,
        {"unk_token": unknown, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
         "merges": _merges(pieces, types, scores)},
        normalizer={"type": "Sequence", "normalizers": space},
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": text},
    )  # fmt: skip


def _merges(pieces: list[str], types: list[int], scores: list[float]) -> list[list[str]]:
    """List the pairs that make a piece, those of the piece of the highest score first, as SentencePiece joins them."""
    plain = {piece: i for i, (piece, kind) in enumerate(zip(pieces, types, strict=True)) if kind == 1}
    merges = []
    for piece in sorted(plain, key=lambda piece: (-scores[plain[piece]], plain[piece])):
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        pairs = [pair for pair in pairs if plain.keys() >= set(pair)]
        merges += sorted(map(list, pairs), key=lambda pair: (plain[pair[0]], plain[pair[1]]))
    return merges
