"""The token store: what is written is read back, and damage is reported."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pathways_lite.data.build import build
from pathways_lite.data.pieces import ArrayWriter
from pathways_lite.data.store import SPLITS, Store, open_store, require_compatible
from pathways_lite.data.zarr_io import SHARD, open_array
from pathways_lite.errors import UserError
from pathways_lite.recipe import Data


def documents(store: Store) -> dict[str, tuple[str, str, str]]:
    """Domain, split and text of every document by id."""
    by_id = {}
    for domain in store.domains:
        for split in SPLITS:
            starts = store.document_starts(domain, split).tolist()
            sizes = store.document_text_bytes(domain, split).tolist()
            for i, size in enumerate(sizes):
                tokens = store.read(domain, split, starts[i], starts[i + 1])
                assert tokens[0] == store.frame.opens
                assert store.frame.opens not in tokens[1:]
                content = store.tokenizer().decode(tokens.tolist())
                assert len(content.encode()) == size
                by_id[store.document_id(domain, split, i)] = domain, split, content
            assert starts[-1] == store.tokens(domain, split)
            assert sum(sizes) == store.text_bytes(domain, split)
    return by_id


def test_every_document_comes_back_once(store: Store, jsonl: Path) -> None:
    records = [json.loads(line) for line in jsonl.read_text().splitlines()]
    stored = documents(store)
    assert {r["id"]: (r["domain"], r["text"]) for r in records} == {k: (d, t) for k, (d, _, t) in stored.items()}
    splits = [split for _, split, _ in stored.values()]
    assert 0 < splits.count("held_out") < 30
    assert store.domains == ["poems", "tales"]


def test_reading_many_windows_equals_reading_each(store: Store) -> None:
    starts = [("poems", 7), ("tales", 0), ("poems", 100), ("tales", 333)]
    many = store.read_many(starts, "train", 50)
    assert many.dtype == np.int32
    for row, (domain, start) in zip(many, starts, strict=True):
        assert row.tolist() == store.read(domain, "train", start, start + 50).tolist()
    with pytest.raises(IndexError):
        store.read("poems", "train", store.tokens("poems") - 1, store.tokens("poems") + 1)


def test_held_out_documents_are_whole_and_the_same_every_time(store: Store) -> None:
    everything = list(store.held_out("tales", 10**9))
    assert sum(len(d.tokens) for d in everything) == store.tokens("tales", "held_out")
    assert sum(d.text_bytes for d in everything) == store.text_bytes("tales", "held_out")
    few = list(store.held_out("tales", len(everything[0].tokens) + 1))
    assert [d.id for d in few] == [everything[0].id]
    assert len(list(store.held_out("tales", 1))) == 1
    again = [d.id for d in pickle.loads(pickle.dumps(store)).held_out("tales", 10**9)]
    assert again == [d.id for d in everything]


def test_arrays_longer_than_a_shard(tmp_path: Path) -> None:
    values = np.arange(2 * SHARD + 5, dtype=np.uint32)
    writer = ArrayWriter(str(tmp_path), "x", np.dtype(np.uint32), len(values))
    for block in np.split(values, [3, SHARD - 1, SHARD + 7, 2 * SHARD + 1]):
        writer.append(block)
    writer.close()
    array = open_array(str(tmp_path), "x")
    assert (array.read().result() == values).all()
    assert len([p for p in (tmp_path / "x").rglob("*") if p.is_file()]) == 4  # three shards and the metadata


def test_a_missing_or_damaged_manifest_is_reported(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UserError, match=r"not a token store.*data build"):
        open_store(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="local path, gs:// or s3://"):
        open_store("ftp://host/store")
    manifest = Path(store.address) / "manifest.json"
    content = manifest.read_text()
    for broken, message in [
        ("{", "damaged"),
        ('{"format": "other"}', "does not describe a token store"),
        (content.replace("}", "", 1), "damaged"),
        (json.dumps({**json.loads(content), "version": 99}), "version 99"),
        (json.dumps({k: v for k, v in json.loads(content).items() if k != "eod"}), "damaged"),
    ]:
        manifest.write_text(broken)
        with pytest.raises(UserError, match=message):
            open_store(store.address)


def test_damaged_and_missing_arrays_are_reported(store: Store) -> None:
    shard = Path(store.address) / "d1/train/tokens/c/0"
    content = bytearray(shard.read_bytes())
    content[50] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged.*build it again"):
        open_store(store.address).read("tales", "train", 0, 100)
    (shard.parent.parent / "zarr.json").unlink()
    with pytest.raises(UserError, match="d1/train/tokens cannot be opened"):
        open_store(store.address).read("tales", "train", 0, 100)
    with pytest.raises(UserError, match=r"no domain 'verse'\. There are: poems, tales"):
        store.tokens("verse")


def test_a_foreign_tokenizer_in_the_store_is_refused(store: Store, tmp_path: Path) -> None:
    manifest = Path(store.address) / "manifest.json"
    manifest.write_bytes(replace(store.manifest, tokenizer="0" * 64).to_json())
    with pytest.raises(UserError, match="was built by tokenizer 0000"):
        open_store(store.address).tokenizer()


def test_a_store_other_than_the_recipes_is_refused(store: Store) -> None:
    require_compatible(store, Data(corpus="x", seq_len=4), vocab_size=257)
    require_compatible(store, Data(corpus="x", seq_len=4, fingerprint=store.fingerprint), vocab_size=512)
    with pytest.raises(UserError, match=r"fingerprint .* the recipe expects"):
        require_compatible(store, Data(corpus="x", seq_len=4, fingerprint="1" * 64), vocab_size=257)
    with pytest.raises(UserError, match="vocab_size to at least 257"):
        require_compatible(store, Data(corpus="x", seq_len=4), vocab_size=256)


@pytest.mark.parametrize("tokenizer", ["bytes", "sentencepiece:275"])
@pytest.mark.parametrize("budget", [1, 2, 5, 77, 500])
def test_a_held_out_document_that_is_longer_than_the_budget_is_cut(tmp_path: Path, budget: int, tokenizer: str) -> None:
    (tmp_path / "train.txt").write_text("a text, été 漢字\n" * 300)
    (tmp_path / "long.txt").write_text("évé漢 text\n" * 400)
    held_out = [str(tmp_path / "long.txt")]
    store = build([f"d={tmp_path}/train.txt"], tmp_path / "s", tokenizer=tokenizer, held_out=held_out, workers=0)
    (document,) = store.held_out("long", budget)
    assert not document.is_whole
    assert document.tokens[0] == store.frame.opens
    assert max(1, budget - 4) <= len(document.tokens) - 1 <= budget
    text = store.tokenizer().decode(document.tokens[1:].tolist())
    assert document.text_bytes == len(text.encode())
    if budget > 4:
        assert ("évé漢 text\n" * 400).startswith(text)
    (whole,) = store.held_out("long", 10**6)
    assert whole.is_whole
    assert (whole.tokens[: len(document.tokens)] == document.tokens).all()


def test_a_budget_is_filled_by_the_beginning_of_a_long_document_where_whole_ones_leave_most_of_it(
    tmp_path: Path,
) -> None:
    lines = [json.dumps({"text": "x" * n, "id": str(n), "domain": "d"}) for n in [30, 31, 32, 9000, 9001]]
    (tmp_path / "held.jsonl").write_text("\n".join(lines))
    (tmp_path / "d.txt").write_text("some text")
    held_out = [str(tmp_path / "held.jsonl")]
    store = build([str(tmp_path / "d.txt")], tmp_path / "s", tokenizer="bytes", held_out=held_out, workers=0)
    for budget in (1, 40, 60, 100, 200, 5000, 9050, 20_000):
        documents = list(store.held_out("d", budget))
        predictions = sum(len(document.tokens) - (not document.is_whole) for document in documents)
        assert budget / 2 <= predictions <= budget or len(documents) == 5
        assert sum(not document.is_whole for document in documents) <= 1
