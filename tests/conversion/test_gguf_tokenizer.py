"""Tokenizers in GGUF files give the ids of those that they were made of."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.gguf_models import metadata_of, tensors_of, write
from helpers.hf_goldens import golden
from pathways_lite.conversion.gguf_import import import_gguf
from pathways_lite.conversion.gguf_tokenizer import tokenizer_files
from pathways_lite.data.chat_template import ChatTemplate
from pathways_lite.data.tokenizer_files import tokenizer_from_files
from pathways_lite.training.load import load_model

TEXTS = [
    "It's 2024, and 12345.678 don't fit: x = 3.14e-5\n\n    return  [a, b]\t# über naïve 日本語 😀 é é\n",
    " leading, trailing ", "", "\n", "▁ is a piece", "  two  spaces  ",
    "<s> and <unk> are text", "Donaudampfschifffahrtsgesellschaft",
    "HTMLParser's IDs are e.g. 12ab, ２３ and Ⅻ\r\n",
]  # fmt: skip


def byte_level_tokenizer(pre: Any, merges: int = 60, normalizer: Any = None, whole: bool = False) -> Any:
    """A BPE on bytes, trained by the library itself with a pre-tokenizer of its own."""
    import tokenizers
    from tokenizers import decoders, models, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=whole))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=258 + merges, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, "the theory of the other thing, 123 12345"] * 3, trainer)
    return tokenizer


def gpt2_values(tokenizer: Any, pre: str) -> dict[str, Any]:
    """Metadata of a tokenizer.json, as llama.cpp's converter writes it."""
    state = json.loads(tokenizer.to_str())
    vocabulary = sorted(state["model"]["vocab"], key=state["model"]["vocab"].get)
    special = {token["content"] for token in state["added_tokens"]}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in state["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in vocabulary],
        "tokenizer.ggml.merges": merges, "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.bos_token_id": 1,
    }  # fmt: skip


def pre_tokenizers() -> dict[str, tuple[Any, Any, bool]]:
    """Pre-tokenizer, normalizer and whether whole words are kept, as the published tokenizer.json files have them."""
    from tokenizers import Regex, normalizers
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    plain, digits = ByteLevel(add_prefix_space=False), Digits(individual_digits=True)
    cut = lambda regex: Sequence([Split(Regex(regex), "isolated"), ByteLevel(False, use_regex=False)])  # noqa: E731
    llama3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    return {
        "gpt-2": (plain, None, False),
        "olmo": (plain, normalizers.NFC(), False),
        "smollm": (Sequence([digits, plain]), None, False),
        "llama-bpe": (cut(llama3), None, True),
        "qwen2": (cut(llama3.replace("{1,3}", "")), normalizers.NFC(), False),
    }


@pytest.mark.parametrize("pre", ["gpt-2", "olmo", "smollm", "llama-bpe", "qwen2"])
def test_byte_level_ids_are_those_of_the_tokenizer(pre: str) -> None:
    cut, normalizer, whole = pre_tokenizers()[pre]
    theirs = byte_level_tokenizer(cut, normalizer=normalizer, whole=whole)
    files, reason = tokenizer_files(gpt2_values(theirs, pre))
    assert reason == ""
    ours = tokenizer_from_files(files, "it", published=True)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text).ids, text
        if normalizer is None:
            assert ours.decode(ours.encode(text)) == text
    assert (ours.eod, ours.vocab_size) == (0, theirs.get_vocab_size())
    assert ours.control.prefix == ((1,) if pre == "llama-bpe" else ())  # what llama.cpp does where the file is silent
    assert len(ours.encode("<|endoftext|>")) > 1  # within a text it is text


def test_names_of_pre_tokenizers_cut_differently() -> None:
    """So a name that is not known cannot be taken for another."""
    values = gpt2_values(byte_level_tokenizer(pre_tokenizers()["gpt-2"][0], merges=200), "gpt-2")
    text = "it's 12345, iPhone IDs\r\n\n  xé"
    names = ("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o")
    ids = {}
    for name in names:
        tokenizer = tokenizer_from_files(tokenizer_files(values | {"tokenizer.ggml.pre": name})[0], name)
        pieces = tokenizer._tokenizer.pre_tokenizer.pre_tokenize_str(text)
        ids[name] = tuple(piece for piece, _ in pieces)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(set(ids.values())) == len(names)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_ids_are_those_of_the_model(prefix: bool, tmp_path: Path) -> None:
    import io

    import sentencepiece as spm

    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, "the theory of the other thing, 123 12345"] * 20), model_writer=model,
        model_type="bpe", vocab_size=380, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=prefix, character_coverage=0.99, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    theirs = spm.SentencePieceProcessor(model_proto=model.getvalue())
    count = theirs.vocab_size()
    kind = lambda i: (  # noqa: E731
        2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1
    )
    values = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": [theirs.id_to_piece(i) for i in range(count)],
        "tokenizer.ggml.scores": [theirs.get_score(i) for i in range(count)],
        "tokenizer.ggml.token_type": [kind(i) for i in range(count)], "tokenizer.ggml.add_space_prefix": prefix,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip
    ours = tokenizer_from_files(tokenizer_files(values)[0], "it", published=True)
    for text in TEXTS:
        if "▁" in text or (text == "" and prefix):  # the piece for a space is a space
            continue
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == text
    assert (ours.eod, ours.control.prefix) == (2, (1,))


def test_a_checkpoint_carries_the_tokenizer(tmp_path: Path) -> None:
    config, shapes = golden("smollm")["config"], golden("smollm")["shapes"]
    larger = {name: [340 if size == 61 else size for size in shape] for name, shape in shapes.items()}
    values, tensors = metadata_of("smollm", config), tensors_of("smollm", config, larger)
    theirs = byte_level_tokenizer(pre_tokenizers()["smollm"][0])
    written = {name.removeprefix("tokenizer."): value for name, value in gpt2_values(theirs, "smollm").items()}
    lines: list[str] = []

    def imported(name: str, **changes: Any) -> Any:
        file = write(tmp_path / f"{name}.gguf", "llama", values, tensors, tokenizer=written | changes)
        return load_model(import_gguf(file, tmp_path / name, None, lines.append))

    trained = imported("known", chat_template="{{ messages }}")
    assert trained.tokenizer().encode(TEXTS[0]) == theirs.encode(TEXTS[0]).ids
    assert trained.manifest.meta["tokenizer"] == trained.tokenizer().fingerprint
    assert json.loads(trained.companions["tokenizer/tokenizer_config.json"])["chat_template"] == "{{ messages }}"
    assert "'Why?'" in ChatTemplate(trained.tokenizer(), "it").render([{"role": "user", "content": "Why?"}])
    ids = trained.manifest.meta["imported"]["config"]
    assert (ids["bos_token_id"], ids["eos_token_id"]) == (1, 0)
    assert imported("unknown", **{"ggml.pre": "klingon"}).companions == {}
    assert any(
        "how its pre-tokenizer 'klingon' cuts text is not known here; pass --tokenizer" in line for line in lines
    )
    (tmp_path / "tokenizer.json").write_text(theirs.to_str())
    file = tmp_path / "unknown.gguf"
    given = import_gguf(file, tmp_path / "given", None, lines.append, tokenizer=tmp_path / "tokenizer.json")
    assert load_model(given).tokenizer().encode(TEXTS[0]) == theirs.encode(TEXTS[0]).ids


def test_kinds_that_are_not_read_are_named() -> None:
    assert tokenizer_files({}) == ({}, "the file holds none")
    for kind in ("bert", "t5", "rwkv"):
        values = {"tokenizer.ggml.model": kind, "tokenizer.ggml.tokens": ["a"]}
        assert tokenizer_files(values) == ({}, f"tokenizers of the kind {kind!r} are not read here")
    whole = byte_level_tokenizer(pre_tokenizers()["gpt-2"][0]).to_str()
    files, _ = tokenizer_files({"tokenizer.huggingface.json": whole, "tokenizer.ggml.tokens": ["a"]})
    assert files["tokenizer.json"] == whole.encode()
