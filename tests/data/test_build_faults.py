"""Builds that are disturbed: by other builds, changing sources, damaged unfinished work, wrong arguments."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers as hf

from pathways_lite.data.build import Phase, Progress, build
from pathways_lite.data.fsck import fsck
from pathways_lite.data.inspect import describe
from pathways_lite.data.selection import Origin, Selection, apply_selection
from pathways_lite.data.store import Store
from pathways_lite.data.store_lock import lock_store
from pathways_lite.errors import UserError


class Stop(Exception):
    """Ends a build as an interruption would."""


def stop_at(phase: Phase) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.phase == phase:
            raise Stop

    return report


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A directory of 3 files of 1 MiB: a shard each."""
    directory = tmp_path / "texts"
    directory.mkdir()
    for i in range(3):
        (directory / f"{i}.txt").write_text(f"text {i} of a river\n" * 60_000)
    return directory


def test_a_second_build_at_once_is_refused(tmp_path: Path, jsonl: Path) -> None:
    out = tmp_path / "out"
    refusals: list[str] = []

    def build_again(progress: Progress) -> None:
        for workspace in (None, tmp_path / "elsewhere"):
            with pytest.raises(UserError) as raised:
                build([str(jsonl)], out, tokenizer="bytes", workers=0, workspace=workspace)
            refusals.append(str(raised.value))

    store = build([str(jsonl)], out, tokenizer="bytes", workers=0, report=build_again)
    assert len(refusals) >= 4
    assert all(f"{out} is being written by another process" in text for text in refusals)
    assert str(os.getpid()) in refusals[0]
    assert fsck(store.address) == []
    assert not (tmp_path / "out.building").exists()


def test_the_lock_ends_with_its_holder(tmp_path: Path, jsonl: Path) -> None:
    with pytest.raises(Stop):
        build([str(jsonl)], tmp_path / "out", tokenizer="bytes", workers=0, report=stop_at("tokenise"))
    assert (tmp_path / "out.building").exists()
    build([str(jsonl)], tmp_path / "out", tokenizer="bytes", workers=0)
    assert not (tmp_path / "out.building").exists()
    with lock_store(str(tmp_path / "other")):
        assert (tmp_path / "other.building").exists()
    assert not (tmp_path / "other.building").exists()


def test_applying_a_selection_takes_the_same_lock(tmp_path: Path, store: Store) -> None:
    n = sum(store.counts(domain).documents for domain in store.domains)
    path, out = tmp_path / "all.jsonl", str(tmp_path / "selected")
    origin = Origin(store.address, store.fingerprint, "test")
    Selection(origin, np.zeros(n), ["tales"] * n).write(path, store)
    with lock_store(out), pytest.raises(UserError, match="is being written by another process"):
        apply_selection(path, store, out)
    selected = apply_selection(path, store, out)
    assert fsck(selected.address) == []
    assert not (tmp_path / "selected.building").exists()


@pytest.mark.parametrize("change", ["append", "truncate", "touch", "delete", "add"])
def test_sources_that_change_during_a_build_are_noticed(tmp_path: Path, texts: Path, change: str) -> None:
    file = texts / "1.txt"

    def disturb(progress: Progress) -> None:
        if progress.phase == "tokenise" and not (tmp_path / "disturbed").exists():
            (tmp_path / "disturbed").touch()
            if change == "append":
                file.write_text(file.read_text() + "more\n")
            elif change == "truncate":
                file.write_text("less\n")
            elif change == "touch":
                os.utime(file, (1, 1))
            elif change == "delete":
                (texts / "0.txt").unlink()
            else:
                (texts / "3.txt").write_text("new\n")

    with pytest.raises(UserError, match=r"texts/\d.txt changed while the store was built from it"):
        build([str(texts)], tmp_path / "out", tokenizer="bytes", workers=0, report=disturb)
    assert not (tmp_path / "out/manifest.json").exists()
    assert not (tmp_path / "out.building").exists()
    store = build([str(texts)], tmp_path / "out", tokenizer="bytes", workers=0)
    fresh = build([str(texts)], tmp_path / "fresh", tokenizer="bytes", workers=0)
    assert store.fingerprint == fresh.fingerprint


@pytest.mark.parametrize("damage", ["flip tokens", "truncate", "empty", "zeros"])
def test_damaged_shards_of_an_unfinished_build_are_made_again(
    tmp_path: Path, texts: Path, snapshot: Callable[[Path], dict[str, bytes]], damage: str
) -> None:
    build([str(texts)], tmp_path / "whole", tokenizer="bytes", workers=0)
    with pytest.raises(Stop):
        build([str(texts)], tmp_path / "out", tokenizer="bytes", workers=0, report=stop_at("write"))
    shard = sorted((tmp_path / "out.building/shards").glob("*.npz"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(
        {"flip tokens": content, "truncate": content[:999], "empty": b""}.get(damage, bytes(len(content)))
    )
    build([str(texts)], tmp_path / "out", tokenizer="bytes", workers=0)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("file", ["plan.json", "tokenizer/sentencepiece.model"])
def test_work_that_a_power_cut_emptied_is_made_again(tmp_path: Path, jsonl: Path, file: str) -> None:
    whole = build([str(jsonl)], tmp_path / "whole", tokenizer="sentencepiece:300", workers=0)
    with pytest.raises(Stop):
        build([str(jsonl)], tmp_path / "out", tokenizer="sentencepiece:300", workers=0, report=stop_at("tokenise"))
    (tmp_path / "out.building" / file).write_bytes(b"")
    store = build([str(jsonl)], tmp_path / "out", tokenizer="sentencepiece:300", workers=0)
    assert store.fingerprint == whole.fingerprint


@pytest.mark.parametrize("tokenizer", ["sentencepiece:100", "sentencepiece:8192", "sentencepiece:0"])
def test_a_build_that_cannot_succeed_leaves_nothing(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "few.txt").write_text("a few words\n")
    with pytest.raises(UserError):
        build([str(tmp_path / "few.txt")], tmp_path / "out", tokenizer=tokenizer, workers=0)
    assert not (tmp_path / "out.building").exists()
    build([str(tmp_path / "few.txt")], tmp_path / "out", tokenizer="bytes", workers=0)


def test_a_build_that_has_tokenized_nothing_does_not_bar_another(tmp_path: Path, jsonl: Path) -> None:
    with pytest.raises(Stop):
        build([str(jsonl)], tmp_path / "out", tokenizer="sentencepiece:300", workers=0, report=stop_at("sample"))
    store = build([str(jsonl)], tmp_path / "out", tokenizer="bytes", workers=0)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["plan"]["tokenizer"] == "bytes"
    assert fsck(store.address) == []


def test_a_lossy_tokenizer_is_said_and_recorded(tmp_path: Path, jsonl: Path) -> None:
    tokenizer = hf.Tokenizer(hf.models.WordLevel({"Chapter": 0, "[UNK]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    (tmp_path / "words.json").write_text(tokenizer.to_str())
    store = build([str(jsonl)], tmp_path / "out", tokenizer=str(tmp_path / "words.json"), workers=0)
    assert store.is_lossy
    assert store.manifest.round_trip is not None
    assert store.manifest.round_trip.documents == store.manifest.round_trip.documents_lost == 90
    assert any("cannot be restored from their tokens" in note for note in describe(store).notes)
    with_bytes = build([str(jsonl)], tmp_path / "bytes", tokenizer="bytes", workers=0)
    assert not with_bytes.is_lossy
    assert describe(with_bytes).notes == ()
    n = sum(store.counts(domain).documents for domain in store.domains)
    Selection(Origin(store.address, store.fingerprint, "test"), np.zeros(n), ["tales"] * n).write(tmp_path / "s", store)
    assert apply_selection(tmp_path / "s", store, str(tmp_path / "selected")).is_lossy


@pytest.mark.parametrize("held_out", ["texts/1.txt", "texts", "link.txt"])
def test_what_is_trained_on_is_not_held_out(tmp_path: Path, texts: Path, held_out: str) -> None:
    (tmp_path / "link.txt").symlink_to(texts / "2.txt")
    with pytest.raises(UserError, match=r"is in the sources to train on and in those of --held-out"):
        build([str(texts)], tmp_path / "out", tokenizer="bytes", held_out=[str(tmp_path / held_out)], workers=0)
    assert not (tmp_path / "out.building").exists()
