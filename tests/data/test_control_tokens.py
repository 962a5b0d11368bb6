"""BOS, EOS and what ends a document are read from the files beside a tokenizer, before they are guessed."""

import io
import json
import pickle
from pathlib import Path

import pytest
import sentencepiece as spm
import tokenizers as hf

from pathways_lite.data.tokenizer_files import load_tokenizer, save_tokenizer
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.errors import UserError


def published(directory: Path, special: tuple[str, ...], **files: object) -> Tokenizer:
    """Load a tokenizer of three words and some special tokens, from 3 on, with files beside it."""
    tokenizer = hf.Tokenizer(hf.models.WordLevel({"the": 0, "river": 1, "</s>": 2}, unk_token="the"))
    tokenizer.add_special_tokens([hf.AddedToken(token, special=True) for token in special])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return load_tokenizer(directory)


@pytest.mark.parametrize(
    ("special", "files", "eod", "eos"),
    [
        # Gemma: "</s>" is a word of its vocabulary.
        (("<eos>", "<bos>"), {"tokenizer_config": {"eos_token": "<eos>"}}, 3, (3,)),
        # Llama 3, to chat: several, one of which ends documents.
        (
            ("<|eot_id|>", "<|end_of_text|>"),
            {"tokenizer_config": {"eos_token": "<|eot_id|>"}, "generation_config": {"eos_token_id": [4, 3]}},
            4,
            (3, 4),
        ),
        # SmolLM2, to chat: its EOS ends turns, and what ended documents is still a special token.
        (("<|endoftext|>", "<|im_end|>"), {"tokenizer_config": {"eos_token": "<|im_end|>"}}, 3, (4,)),
        # A name that nobody would guess; by id alone, an id, an old file.
        (("<stop>",), {"generation_config": {"eos_token_id": 3}}, 3, (3,)),
        (("<stop>",), {"special_tokens_map": {"eos_token": {"content": "<stop>"}}}, 3, (3,)),
        (("<stop>",), {"tokenizer_config": {"eos_token": None}}, 2, (2,)),
        ((), {}, 2, (2,)),
    ],
    ids=["gemma", "llama 3", "smollm2", "by id", "old file", "null", "no files"],
)
def test_the_end_of_a_document_is_read_before_it_is_guessed(
    special: tuple[str, ...], files: dict[str, object], eod: int, eos: tuple[int, ...], tmp_path: Path
) -> None:
    tokenizer = published(tmp_path / "published", special, **files)
    assert (tokenizer.eod, tokenizer.control.eos) == (eod, eos)
    # A stored tokenizer says it by itself; one whose usual name was right is the one that earlier versions made.
    save_tokenizer(tokenizer, tmp_path / "store" / "tokenizer")
    stored = load_tokenizer(tmp_path / "store")
    assert (stored.eod, stored.fingerprint) == (tokenizer.eod, tokenizer.fingerprint)
    alone = load_tokenizer(tmp_path / "published" / "tokenizer.json")
    assert (alone.fingerprint == tokenizer.fingerprint) == (alone.eod == tokenizer.eod)


def test_a_tokenizer_that_an_earlier_version_stored_keeps_its_end_of_document(tmp_path: Path) -> None:
    """It was guessed, whatever the files beside it say."""
    published(tmp_path / "store" / "tokenizer", ("<eos>",), tokenizer_config={"eos_token": "<eos>"})
    stored = load_tokenizer(tmp_path / "store")
    assert (stored.eod, stored.control.eos) == (2, (3,))
    assert stored.fingerprint == load_tokenizer(tmp_path / "store" / "tokenizer" / "tokenizer.json").fingerprint


def test_the_other_tokens_are_read_too(tmp_path: Path) -> None:
    decoder = {"3": {"content": "<s>", "special": True}, "7": {"content": "<tool>", "special": True}}
    config = {"bos_token": "<s>", "pad_token": {"content": "<tool>"}, "added_tokens_decoder": decoder}
    control = published(
        tmp_path, ("<s>", "<stop>"), tokenizer_config=config, generation_config={"pad_token_id": 0, "eos_token_id": 4}
    ).control
    # <tool> is no token of tokenizer.json, only of the list of added ones.
    assert (control.bos, control.pad, control.unknown, control.eos, control.prefix) == (3, 7, None, (4,), ())
    assert published(tmp_path, ("<s>",), tokenizer_config={**config, "add_bos_token": True}).control.prefix == (3,)
    assert dict(published(tmp_path, ("<s>",), tokenizer_config={"added_tokens_decoder": decoder}).control.added) == {
        "<s>": 3,
        "<tool>": 7,
    }
    with pytest.raises(UserError, match=r"generation_config.json of .* is no JSON object"):
        published(tmp_path, ("<s>",), generation_config=[1])


@pytest.mark.parametrize(
    ("config", "prefix"),
    [
        ({"tokenizer_class": "LlamaTokenizer"}, (1,)),
        ({"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}, ()),
        ({"tokenizer_class": "T5Tokenizer"}, ()),
        ({"add_bos_token": True}, (1,)),
    ],
)
def test_bos_of_sentencepiece_models_is_added_as_their_class_does(
    config: dict[str, object], prefix: tuple[int, ...], tmp_path: Path
) -> None:
    model = io.BytesIO()
    lines = Path(__file__).read_text().splitlines()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=300, minloglevel=2, hard_vocab_limit=False
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.control.bos, tokenizer.control.eos, tokenizer.control.prefix) == (1, (2,), prefix)
    assert pickle.loads(pickle.dumps(tokenizer)).control == tokenizer.control
