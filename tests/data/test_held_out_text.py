"""Held-out documents without their corpus: exactly those that the corpus gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.data.build import build
from pathways_lite.data.held_out_text import HeldOutText
from pathways_lite.data.tokenizers import ByteTokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two domains with short and long documents, some of several bytes a character."""
    path = tmp_path_factory.mktemp("corpus")
    for domain, unit in (("greek", "αβγδ 🜁 "), ("plain", "night ")):
        for n in range(12):
            file = path / "text" / domain / f"{n}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(unit * (1 + n * n))
    sources = [f"{domain}={path / 'text' / domain}" for domain in ("greek", "plain")]
    return build(sources, path / "store", tokenizer="bytes", held_out=0.5, workers=0)


def same(a, b) -> bool:
    fields = (a.id, a.text_bytes, a.is_whole) == (b.id, b.text_bytes, b.is_whole)
    return fields and np.array_equal(a.tokens, b.tokens) and a.tokens.dtype == b.tokens.dtype


@settings(max_examples=40, deadline=None)
@given(carried=st.integers(1, 3000), asked=st.integers(1, 4000))
def test_a_saved_text_gives_the_documents_of_the_corpus(store, carried, asked):
    saved = HeldOutText.of_store(store, carried).to_bytes()
    text = HeldOutText.from_bytes(saved, ByteTokenizer(), DocumentFrame(256), "here")
    assert text.to_bytes() == saved
    assert (text.domains, text.frame, text.vocab_size) == (store.domains, store.frame, store.vocab_size)
    assert text.is_lossy == store.is_lossy
    for domain in store.domains:
        expected = list(store.held_out(domain, asked))
        if asked <= carried or domain in text.complete:
            actual = list(text.held_out(domain, asked))
            assert len(actual) == len(expected)
            assert all(map(same, actual, expected))
        else:
            with pytest.raises(UserError, match="--corpus"):
                list(text.held_out(domain, asked))
    assert text.serves(asked) == (asked <= carried or set(text.complete) == set(store.domains))


def test_damage_and_another_tokenizer_are_refused(store):
    saved = HeldOutText.of_store(store, 500).to_bytes()
    for content in (b"", b"PK", saved[:-30], saved[: len(saved) // 2], b"x" + saved[1:]):
        with pytest.raises(UserError, match="here is no held-out text"):
            HeldOutText.from_bytes(content, ByteTokenizer(), DocumentFrame(256), "here")
    other = ByteTokenizer()
    other.fingerprint = "another"
    with pytest.raises(UserError, match="was made by tokenizer"):
        HeldOutText.from_bytes(saved, other, DocumentFrame(256), "here")
