"""Selections: files about documents, and the stores that are made from them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pathways_lite.data.build import build
from pathways_lite.data.inspect import describe
from pathways_lite.data.pipeline import DataStream
from pathways_lite.data.selection import (
    Origin,
    Selection,
    apply_selection,
    read_selection,
    require_directory,
    training_documents,
)
from pathways_lite.data.store import SPLITS, Store
from pathways_lite.errors import UserError
from pathways_lite.ledger import Timeline
from pathways_lite.recipe import Causal, Data, DataMixture, GivenWeights, MixturePhase, Ramp, Steps

Write = Callable[[Store, list[str | None]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A selection file that sends documents to these domains."""

    def write(store: Store, to: list[str | None]) -> Path:
        origin = Origin(store.address, store.fingerprint, "by_hand", {"keep": 0.5})
        Selection(origin, np.arange(len(to)) / 3, to).write(tmp_path / "chosen.jsonl", store)
        return tmp_path / "chosen.jsonl"

    return write


def contents(store: Store, split: str) -> dict[str, list[tuple[str, list[int]]]]:
    """Per domain, ids and tokens of all documents, in order."""
    return {
        name: [
            (id_, tokens.tolist())
            for id_, tokens in zip(store.document_ids(name, split), store.documents(name, split), strict=True)  # type: ignore[arg-type]
        ]
        for name in store.domains
        if store.counts(name, split).documents  # type: ignore[arg-type]
    }


def own(store: Store) -> list[str | None]:
    """Each training document's own domain."""
    return [store.domains[d] for d in training_documents(store).domain]


def test_what_is_written_is_read(store: Store, write: Write) -> None:
    to = own(store)
    to[3] = None
    selection = read_selection(write(store, to), store)
    assert selection.destinations == to
    assert selection.score == pytest.approx(np.arange(len(to)) / 3, rel=1e-6)
    assert selection.kept.sum() == len(to) - 1
    assert selection.origin.options == {"keep": 0.5}


def test_keeping_everything_gives_the_same_corpus(store: Store, write: Write, tmp_path: Path) -> None:
    same = apply_selection(write(store, own(store)), store, str(tmp_path / "same"))
    assert same.fingerprint == store.fingerprint
    assert contents(same, "train") == contents(store, "train")


def test_exactly_the_chosen_documents_are_there(store: Store, write: Write, tmp_path: Path) -> None:
    documents = training_documents(store)
    to: list[str | None] = [[None, "odd", "even"][n % 3] for n in documents.number.tolist()]
    processed: list[int] = []
    new = apply_selection(write(store, to), store, str(tmp_path / "new"), done=processed.append)
    assert new.domains == ["even", "odd", "poems", "tales"]
    assert contents(new, "held_out") == contents(store, "held_out")
    before = [document for name in store.domains for document in contents(store, "train")[name]]
    expected = {
        name: [document for document, domain in zip(before, to, strict=True) if domain == name]
        for name in ("even", "odd")
    }
    assert contents(new, "train") == expected
    chosen = np.array([name is not None for name in to])
    text_bytes = np.concatenate([store.document_text_bytes(name) for name in store.domains])
    assert sum(new.tokens(name) for name in new.domains) == documents.tokens[chosen].sum()
    assert sum(new.text_bytes(name) for name in new.domains) == text_bytes[chosen].sum()
    assert sum(processed) == sum(store.tokens(name, split) for name in store.domains for split in SPLITS)
    assert new.fingerprint != store.fingerprint
    assert "by_hand (keep=0.5)" in str(describe(new, samples=1).selection)


def test_a_mixture_reads_the_new_domains(store: Store, write: Write, tmp_path: Path) -> None:
    """Batches over the new store are windows of the documents that were sent to the domain."""
    to: list[str | None] = ["odd" if n % 2 else "even" for n in training_documents(store).number.tolist()]
    new = apply_selection(write(store, to), store, str(tmp_path / "new"))
    mixture = DataMixture(
        phases=(MixturePhase(weights=GivenWeights.model_validate({"weights": {"odd": 3, "even": 1}})),)
    )
    data = Data(corpus=new.address, seq_len=16, mixture=mixture)
    timeline = Timeline(
        ramp=Ramp(steps=((0, 8),)), seq_len=16, flops_per_token=6, budget=Steps(n=4), active_parameters=1
    )
    batches = DataStream(new, data, timeline, Causal())
    streams = {name: np.concatenate(list(new.documents(name))) for name in ("even", "odd")}
    counts = dict.fromkeys(streams, 0)
    for step in range(4):
        batch = batches.batch_at(step)
        for tokens, domain in zip(batch.tokens, batch.domain, strict=True):
            name = new.domains[domain]
            counts[name] += 1
            windows = streams[name][: len(streams[name]) // 16 * 16].reshape(-1, 16)
            assert (windows == tokens).all(axis=1).any()
    assert counts["odd"] == pytest.approx(24, abs=2)


def test_another_corpus_is_refused(store: Store, write: Write, jsonl: Path, tmp_path: Path) -> None:
    other = build([str(jsonl)], tmp_path / "other", tokenizer="bytes", held_out=0.2, workers=0)
    with pytest.raises(UserError, match=f"{store.fingerprint[:12]}.*{other.fingerprint[:12]}"):
        apply_selection(write(store, own(store)), other, str(tmp_path / "new"))


def test_lines_that_do_not_fit_are_named(store: Store, write: Write, tmp_path: Path) -> None:
    path = write(store, own(store))
    lines = path.read_text().splitlines(keepends=True)

    def refused(changed: list[str], match: str) -> None:
        path.write_text("".join(changed))
        with pytest.raises(UserError, match=match):
            apply_selection(path, store, str(tmp_path / "new"))

    refused(lines[:-1], "expected a line about .*'document'")
    refused([*lines, lines[-1]], "more lines than")
    refused([lines[0], lines[2], lines[1], *lines[3:]], r"chosen.jsonl:2: expected the line of")
    refused([*lines[:4], "{}\n", *lines[5:]], r"chosen.jsonl:5: expected a line about")
    refused(['{"text": "something else"}\n'], "is not a selection")
    refused([lines[0].replace(f'"{store.fingerprint}"', "1")], "is not a selection")
    path.write_bytes(b"\x80\xff\n")
    with pytest.raises(UserError, match="is not a selection"):
        apply_selection(path, store, str(tmp_path / "new"))
    with pytest.raises(UserError, match="is a directory"):
        require_directory(tmp_path)
    refused(
        [lines[0], *(json.dumps(json.loads(line) | {"to": None}) + "\n" for line in lines[1:])], "keeps no document"
    )
    assert not (tmp_path / "new").exists()


def test_what_is_there_already_is_left_alone(store: Store, write: Write, tmp_path: Path) -> None:
    out = str(tmp_path / "new")
    path = write(store, [*own(store)[:-1], None])
    first = apply_selection(path, store, out)
    assert apply_selection(path, store, out, done=pytest.fail).fingerprint == first.fingerprint
    path.write_text(path.read_text().replace("0.3333333", "0.25"))
    with pytest.raises(UserError, match="holds another store"):
        apply_selection(path, store, out)
    with pytest.raises(UserError, match="holds another store"):
        apply_selection(path, store, store.address)


def test_document_blocks_hold_whole_documents_however_long_they_are(store: Store) -> None:
    whole = list(store.documents("tales"))
    for size in (1, 500, 1 << 22):
        blocks = list(store.document_blocks("tales", "train", size))
        assert [first for first, _, _ in blocks] == [0, *(stop for _, stop, _ in blocks)][:-1]
        assert blocks[-1][1] == len(whole)
        for first, stop, tokens in blocks:
            assert tokens.tolist() == np.concatenate(whole[first:stop]).tolist()
            assert stop == first + 1 or len(tokens) <= size
