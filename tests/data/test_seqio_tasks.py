"""SeqIO's Tasks and Mixtures as a source, and our examples against its preprocessing and its feature converter."""

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import helpers
from pathways_lite.data.build import build
from pathways_lite.data.records import Fields
from pathways_lite.data.seqio_tasks import SeqioSource
from pathways_lite.data.store import Store
from pathways_lite.errors import UserError

TASKS = str(Path(helpers.__file__).with_name("seqio_tasks.py"))


def source(name: str, examples: int | None = None) -> SeqioSource:
    return SeqioSource(f"seqio:{name}", Fields(), TASKS, examples)


def texts(store: Store) -> dict[str, list[str]]:
    """Texts of each domain, training and held-out documents together."""
    by_domain: dict[str, list[str]] = {}
    for domain in store.domains:
        for split in ("train", "held_out"):
            starts = store.document_starts(domain, split).tolist()
            for start, stop in pairwise(starts):
                text = store.tokenizer().decode(store.read(domain, split, start + 1, stop).tolist())
                by_domain.setdefault(domain, []).append(text)
    return by_domain


def test_without_the_extra_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seqio", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"^seqio: sources need SeqIO and TensorFlow: make install EXTRA=seqio$"):
        list(source("odd").chunks())


class TestWithSeqio:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("seqio", reason="the extra `seqio` is not installed")

    def test_a_task_is_a_corpus(self, tmp_path: Path) -> None:
        task = source("odd")
        store = build([task], tmp_path / "a", tokenizer=task.tokenizer(), held_out=0.1, workers=0)
        expected = [f"odd train number {i}, é" for i in range(30)]
        assert sorted(texts(store)["odd"]) == sorted(expected)
        assert store.manifest.tokenizer_kind == "bytes"
        again = build([source("odd")], tmp_path / "b", tokenizer="bytes", held_out=0.1, workers=0)
        assert again.fingerprint == store.fingerprint
        other = build([source("odd@validation")], tmp_path / "c", tokenizer="bytes", held_out=0, workers=0)
        assert texts(other)["odd"] == [f"odd validation number {i}, é" for i in range(3)]

    def test_a_mixture_is_its_tasks_at_their_rates(self, tmp_path: Path) -> None:
        store = build([source("both", 41)], tmp_path / "a", tokenizer="bytes", held_out=0, workers=0)
        by_domain = texts(store)
        assert {name: len(documents) for name, documents in by_domain.items()} == {"odd": 10, "even": 31}
        assert by_domain["odd"] == [f"odd train number {i}, é" for i in range(10)]

    def test_tokens_without_their_text_are_decoded(self) -> None:
        (chunk,) = source("answers").chunks()
        assert next(iter(chunk.read())).text == "Q why train number 0, é\nwhy train number 0, é"  # type: ignore[union-attr]

    def test_a_chunk_begins_anywhere(self) -> None:
        (chunk,) = source("even").chunks()
        later = replace(chunk, first=58)  # type: ignore[type-var]
        assert [document.id for document in later.read()] == ["even/train/58", "even/train/59"]  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("name", "examples", "message"),
        [
            ("neither", None, "no Task or Mixture 'neither'"),
            ("odd@test", None, "odd has no split 'test'. There are: train, validation"),
            ("both", None, "both is a Mixture: say with --examples"),
            ("both", 400, "takes 300 of 400 examples from even, which has 60: .* --examples 80 or fewer"),
        ],
    )
    def test_mistakes_are_sentences(self, name: str, examples: int | None, message: str) -> None:
        with pytest.raises(UserError, match=message):
            list(source(name, examples).chunks())

    def test_no_accelerator_is_visible_to_tensorflow(self) -> None:
        list(source("odd").chunks())
        import tensorflow

        assert [device.device_type for device in tensorflow.config.get_visible_devices()] == ["CPU"]
