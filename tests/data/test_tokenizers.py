"""Tokenizers: lossless, the same ids however the text is split, and never an end of document."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece as spm
import tokenizers as hf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pathways_lite.data.round_trip import RoundTrip, RoundTripSampler, round_trip
from pathways_lite.data.sentencepiece import SentencePieceTokenizer, _cut_line, split_words, train_sentencepiece
from pathways_lite.data.tokenizer_files import load_tokenizer, save_tokenizer
from pathways_lite.data.tokenizers import ByteTokenizer, HFTokenizer, Tokenizer
from pathways_lite.data.train_tokenizer import vocabulary_note
from pathways_lite.errors import UserError

TEXT = Path(__file__).read_text() * 3 + "  indented\n\n\tTabs and 2024 digits, Zürich…\n"
# Letters, runs of spaces and newlines, controls, SentencePiece's own space, other scripts, the EOD's name.
PARTS = [*"a \n\t\r\0▁é漢🎉\u2028\ufffd", "the ", "  ", "42", "<eod>", "<0x41>"]
texts = st.one_of(st.lists(st.sampled_from(PARTS), max_size=20).map("".join), st.text(max_size=30))


@pytest.fixture(scope="module")
def trained() -> SentencePieceTokenizer:
    return train_sentencepiece([TEXT], 500)


def hf_tokenizer() -> HFTokenizer:
    """A byte-level BPE, as most tokenizer.json files are."""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<eod>"], initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = hf.processors.TemplateProcessing("<eod> $A", special_tokens=[("<eod>", 0)])
    return HFTokenizer(tokenizer.to_str().encode(), "test")


@pytest.fixture(scope="module", params=["bytes", "sentencepiece", "hf"])
def tokenizer(request: pytest.FixtureRequest, trained: SentencePieceTokenizer) -> Tokenizer:
    tokenizers: dict[str, Tokenizer] = {"bytes": ByteTokenizer(), "sentencepiece": trained, "hf": hf_tokenizer()}
    return tokenizers[request.param]


@given(text=texts)
@example(text="▁a b▁  ▁\n")
@settings(max_examples=200)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([tokenizer.eod, *ids]) == text
    assert tokenizer.eod not in ids
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert [array.tolist() for array in tokenizer.encode_batch([text, "", "a b", text])[::3]] == [ids, ids]
    assert [len(array) for array in tokenizer.encode_batch(["", ""])] == [0, 0]
    assert tokenizer.encode_batch([]) == []


@given(text=texts)
@settings(max_examples=200)
def test_words_make_up_the_text(text: str) -> None:
    words = split_words(text)
    assert "".join(words) == text
    assert all(words)
    for word in words:
        assert word == "\n" or "\n" not in word
        assert " " not in word.lstrip(" ")


@given(text=texts)
@settings(max_examples=200)
def test_word_by_word_equals_the_whole(trained: SentencePieceTokenizer, text: str) -> None:
    assert trained.encode(text) == trained.encode_whole(text)


def test_word_by_word_equals_the_whole_on_text(trained: SentencePieceTokenizer) -> None:
    assert trained.encode(TEXT) == trained.encode_whole(TEXT)
    # The library itself, so that not both are wrong.
    library = spm.SentencePieceProcessor(model_proto=trained.files()["sentencepiece.model"])
    assert trained.encode(TEXT.replace("▁", "")) == library.encode(TEXT.replace("▁", ""))


def test_the_vocabulary_is_as_palms(trained: SentencePieceTokenizer) -> None:
    assert len(trained.encode("2024")) == 4  # digits one by one
    assert len(trained.encode("        ")) < 4  # runs of spaces are tokens
    assert len(trained.encode(chr(0x9F8D))) == 3  # an unknown character, as bytes
    assert trained.vocab_size == 500
    assert len(trained.encode(TEXT)) < len(TEXT) / 2


def test_training_is_deterministic(trained: SentencePieceTokenizer) -> None:
    assert train_sentencepiece([TEXT], 500).fingerprint == trained.fingerprint
    assert train_sentencepiece([TEXT], 501).fingerprint != trained.fingerprint


def test_saved_and_sent_tokenizers_are_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path / "t")
    for other in (load_tokenizer(tmp_path / "t"), pickle.loads(pickle.dumps(tokenizer))):
        assert other.fingerprint == tokenizer.fingerprint
        assert (other.vocab_size, other.eod, other.kind) == (tokenizer.vocab_size, tokenizer.eod, tokenizer.kind)
        assert other.encode(TEXT[:500]) == tokenizer.encode(TEXT[:500])


@pytest.mark.parametrize(
    "options", [{}, {"model_type": "bpe", "split_by_whitespace": False}, {"byte_fallback": True, "vocab_size": 600}]
)
def test_foreign_models_encode_as_the_library_does(options: dict[str, object]) -> None:
    """If words cannot be encoded separately, they are not."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 300, **options},
    )
    tokenizer = SentencePieceTokenizer(model.getvalue())
    library = spm.SentencePieceProcessor(model_proto=model.getvalue())
    for text in ("for x in  y :\n    return", "  a b  c ", TEXT):
        assert tokenizer.encode(text) == library.encode(text)


def test_mistakes_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; a tokenizer is bytes"):
        load_tokenizer(tmp_path / "x.model")
    for name, message in [
        ("x.model", "no SentencePiece model"),
        ("x.json", "no tokenizer.json"),
        ("x.bin", "no tokenizer file"),
    ]:
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(UserError, match=message):
            load_tokenizer(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path / "empty")
    empty = hf.Tokenizer(hf.models.BPE()).to_str().encode()
    with pytest.raises(UserError, match="could mark the end of a document"):
        HFTokenizer(empty, "x")


# ---- training ----


@pytest.mark.parametrize("vocab_size", [1, 2, 100, 257, 259, 275])
def test_a_vocabulary_that_is_too_small_is_told_the_least_size(vocab_size: int) -> None:
    with pytest.raises(
        UserError, match=rf"of {vocab_size} tokens is too small .* use sentencepiece:(\d+) or larger"
    ) as e:
        train_sentencepiece([TEXT], vocab_size)
    least = int(str(e.value).split("sentencepiece:")[1].split()[0])
    assert train_sentencepiece([TEXT], least).vocab_size == least
    with pytest.raises(UserError, match="too small"):
        train_sentencepiece([TEXT], least - 1)


@pytest.mark.parametrize("text", ["a few words", "a", "x" * 5000, " "])
def test_a_vocabulary_that_is_too_large_is_told_the_greatest_size(text: str) -> None:
    with pytest.raises(UserError, match=r"of 5000 tokens is too large .* use at most \d+") as e:
        train_sentencepiece([text], 5000)
    greatest = int(str(e.value).split("at most ")[1].split(",")[0])
    assert train_sentencepiece([text], greatest).vocab_size == greatest


@pytest.mark.parametrize("texts", [[], [""], ["\n\n"]])
def test_no_text_is_said(texts: list[str]) -> None:
    with pytest.raises(UserError, match="no text to train"):
        train_sentencepiece(texts, 300)


def test_long_lines_train_the_vocabulary_that_short_ones_do() -> None:
    words = TEXT.split()
    long_line = " ".join(words * (3_000_000 // len(" ".join(words))))
    assert len(long_line) > 1 << 21
    cut = list(_cut_line(long_line))
    assert "".join(cut) == long_line
    assert all(part.startswith(" ") and len(part) <= 1 << 16 for part in cut[1:])
    assert list(_cut_line(TEXT)) == [TEXT]
    unspaced = "漢字" * 400_000
    assert "".join(_cut_line(unspaced)) == unspaced
    assert max(len(part.encode()) for part in _cut_line(unspaced)) < 1 << 20
    assert train_sentencepiece([long_line], 400).vocab_size == 400


# ---- tokenizer.json files that are not byte-level BPEs ----


def word_level() -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(hf.models.WordLevel({"the": 0, "river": 1, "[UNK]": 2, "[SEP]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    return tokenizer


def lower_case() -> hf.Tokenizer:
    tokenizer = hf.Tokenizer.from_str(hf_tokenizer().files()["tokenizer.json"].decode())
    tokenizer.normalizer = hf.normalizers.Lowercase()
    return tokenizer


def without_bytes() -> hf.Tokenizer:
    """A BPE of letters only: other characters become no token at all."""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.train_from_iterator(["abcdefghijklmnopqrstuvwxyz"], hf.trainers.BpeTrainer(special_tokens=["<eod>"]))
    tokenizer.decoder = hf.decoders.Fuse()
    return tokenizer


@pytest.mark.parametrize(
    ("make", "text", "bytes_lost"),
    [
        (word_level, "漢字", 6),
        (lower_case, "The River", 2),
        (without_bytes, "ab 漢 c", 5),
        (without_bytes, "漢字", 6),
    ],
)
def test_what_a_tokenizer_loses_is_counted(make: Callable[[], hf.Tokenizer], text: str, bytes_lost: int) -> None:
    tokenizer = HFTokenizer(make().to_str().encode(), "test")
    size = len(text.encode())
    assert round_trip(tokenizer, text) == RoundTrip(1, 1, size, bytes_lost)
    assert round_trip(tokenizer, "abc") == RoundTrip(1, 0, 3, 0) or make is word_level


@given(text=texts)
@settings(max_examples=50)
def test_lossless_tokenizers_lose_nothing(tokenizer: Tokenizer, text: str) -> None:
    assert round_trip(tokenizer, text) == RoundTrip(1, 0, len(text.encode()), 0)


def test_the_sample_is_spread_over_a_shard() -> None:
    sampler = RoundTripSampler(HFTokenizer(lower_case().to_str().encode(), "test"))
    for i in range(6000):
        sampler.add(("x" if i < 3000 else "X") * 1000)
    assert 60 < sampler.result.documents < 600
    assert 0 < sampler.result.documents_lost < sampler.result.documents


def test_a_long_document_is_sampled_by_its_beginning() -> None:
    result = round_trip(ByteTokenizer(), "é" * (1 << 20))
    assert result == RoundTrip(1, 0, 1 << 17, 0)


def test_dropout_does_not_make_encodings_random() -> None:
    plain = hf_tokenizer()
    raw = json.loads(plain.files()["tokenizer.json"])
    raw["model"]["dropout"] = 0.5
    tokenizer = HFTokenizer(json.dumps(raw).encode(), "test")
    for other in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        assert other.encode(TEXT) == plain.encode(TEXT)
        assert other.encode_batch([TEXT])[0].tolist() == plain.encode(TEXT)


def test_the_end_of_document_may_have_any_name(tmp_path: Path) -> None:
    content = word_level().to_str().replace("[SEP]", "<stop>").encode()
    with pytest.raises(UserError, match="--eod TOKEN"):
        HFTokenizer(content, "x")
    with pytest.raises(UserError, match="has no token '<end>'"):
        HFTokenizer(content, "x", eod="<end>")
    (tmp_path / "tokenizer.json").write_bytes(content)
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json", eod="<stop>")
    assert tokenizer.eod == 3
    assert tokenizer.fingerprint != load_tokenizer(tmp_path / "tokenizer.json", eod="the").fingerprint
    save_tokenizer(tokenizer, tmp_path / "saved")
    for other in (load_tokenizer(tmp_path / "saved"), pickle.loads(pickle.dumps(tokenizer))):
        assert (other.eod, other.fingerprint) == (3, tokenizer.fingerprint)
    save_tokenizer(ByteTokenizer(), tmp_path / "bytes")
    with pytest.raises(UserError, match="leave out --eod"):
        load_tokenizer(tmp_path / "bytes", eod="x")


def test_the_end_of_document_of_a_model_without_any(tmp_path: Path) -> None:
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=model, vocab_size=300, minloglevel=2,
        hard_vocab_limit=False, bos_id=-1, eos_id=-1, control_symbols=["<stop>"],
    )  # fmt: skip
    content = model.getvalue()
    with pytest.raises(UserError, match="--eod TOKEN"):
        SentencePieceTokenizer(content)
    with pytest.raises(UserError, match="has no token '<end>'"):
        SentencePieceTokenizer(content, eod="<end>")
    tokenizer = SentencePieceTokenizer(content, eod="<stop>")
    save_tokenizer(tokenizer, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").eod == tokenizer.eod
    assert pickle.loads(pickle.dumps(tokenizer)).eod == tokenizer.eod


def test_a_vocabulary_that_is_large_for_its_text_is_noted() -> None:
    said = vocabulary_note("sentencepiece:8192", 308_000)
    assert "8,192 tokens is large for 308,000 bytes of text, 37 for each" in said
    assert "--tokenizer sentencepiece:1024 suits" in said
    assert "--tokenizer bytes suits" in vocabulary_note("sentencepiece:8192", 60_000)
    assert not vocabulary_note("sentencepiece:1024", 308_000)
    assert not vocabulary_note("bytes", 10)
