"""What is said about a corpus: nothing where all is as expected, a sentence with the way out where it is not."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from pathways_lite.data.build import build
from pathways_lite.data.inspect import describe
from pathways_lite.data.notes import corpus_notes, training_notes
from pathways_lite.data.store import Store


def corpus(directory: Path, sizes: dict[str, list[int]], held_out: float = 0.01) -> Store:
    """A corpus of domains with documents of these sizes in bytes."""
    records = [
        {"text": f"{name[0]}{i} " * (size // 4), "domain": name, "id": f"{name}{i}"}
        for name, of_domain in sizes.items()
        for i, size in enumerate(of_domain)
    ]
    path = directory / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return build([str(path)], directory / "store", tokenizer="bytes", held_out=held_out, workers=0)


def test_nothing_is_said_of_an_ordinary_corpus(tmp_path: Path) -> None:
    store = corpus(tmp_path, {"tales": [400] * 300, "poems": [400] * 300})
    assert corpus_notes(store) == training_notes(store, 1000) == []


@pytest.mark.parametrize(("sizes", "held_out"), [({"a": [4000]}, 0.01), ({"a": [400] * 9, "b": [400]}, 0.0)])
def test_that_nothing_is_held_out_is_said_with_the_way_out(
    tmp_path: Path, sizes: dict[str, list[int]], held_out: float
) -> None:
    store = corpus(tmp_path, sizes, held_out)
    for notes in (corpus_notes(store), training_notes(store, 1000)):
        assert len(notes) == 1
        assert "Nothing is held out" in notes[0]
        assert "--held-out FILE" in notes[0]


def test_domains_without_held_out_text_are_named(tmp_path: Path) -> None:
    store = corpus(tmp_path, {"many": [400] * 300} | {f"lonely{i}": [400] for i in range(9)})
    (note,) = corpus_notes(store)
    assert "held out of lonely0, lonely1, lonely2, lonely3, lonely4 and 4 more domains" in note


@pytest.mark.parametrize("sizes", [[40_000, 40_000, 40_000], [400] * 5, [10, 90_000]])
def test_that_much_is_held_out_is_said(tmp_path: Path, sizes: list[int]) -> None:
    store = corpus(tmp_path, {"books": sizes})
    if store.text_bytes("books", "held_out") < 1000 and len(sizes) == 2:
        assert corpus_notes(store) == []
        return
    (note,) = corpus_notes(store)
    assert "of the text is held out" in note
    assert "1.00% of the documents were asked for" in note


def test_what_was_asked_for_is_not_said(tmp_path: Path) -> None:
    assert corpus_notes(corpus(tmp_path, {"a": [400] * 200}, held_out=0.3)) == []


def test_many_domains_are_said_and_cheap(tmp_path: Path) -> None:
    store = corpus(tmp_path, {f"host{i}.example": [40] * 2 for i in range(100)} | {f"one{i}": [40] for i in range(20)})
    notes = " ".join(training_notes(store, 1000))
    assert "120 domains" in notes
    assert "--domain-field" in notes
    assert "Each evaluation scores" in notes
    files = [path for path in Path(store.address).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000  # mostly descriptions of arrays
    assert not list(Path(store.address).glob("d119/held_out/*"))  # nothing is held out of it
    with (tmp_path / "shown").open("w") as file:
        Console(file=file, width=200).print(describe(store, samples=0))
    shown = (tmp_path / "shown").read_text()
    assert "and 56 more domains" in shown
    assert "--domain-field" in shown
