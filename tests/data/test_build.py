"""Building: the same store after any interruption, and never a mixture of two builds."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pathways_lite.cli.data_build_display import show_progress
from pathways_lite.data import build as build_module
from pathways_lite.data.build import Progress, build
from pathways_lite.data.inspect import describe
from pathways_lite.data.sources import Source
from pathways_lite.data.store import Store
from pathways_lite.data.train_tokenizer import sample_texts
from pathways_lite.errors import UserError

Snapshot = Callable[[Path], dict[str, bytes]]

# Kills itself by kill -9 at a given progress.
KILLED = """
import os, signal, sys
from pathways_lite.data.build import build

def report(progress):
    if progress.phase == sys.argv[3] and progress.done.documents >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    build([sys.argv[1]], sys.argv[2], tokenizer="sentencepiece:275", workers=int(sys.argv[5]), report=report)
"""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """5 MB, so several shards."""
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for i in range(500):
            words = " ".join(f"w{i % 7} word {k % 30}" for k in range(i % 90 + 700))
            file.write(json.dumps({"text": f"{i}\n{words}\n", "domain": "ab"[i % 5 == 0], "id": f"d{i}"}) + "\n")
    return path


def test_killed_builds_finish_as_if_nothing_had_happened(tmp_path: Path, large: Path, snapshot: Snapshot) -> None:
    whole = tmp_path / "whole"
    build([str(large)], whole, tokenizer="sentencepiece:275", workers=0)
    out = tmp_path / "out"
    building = tmp_path / "out.building"
    kills = [("tokenise", 1, 0), ("tokenise", 300, 2), ("write", 200, 0)]
    for phase, documents, workers in kills:
        arguments = [str(large), str(out), phase, str(documents), str(workers)]
        script = tmp_path / "killed.py"
        script.write_text(KILLED)
        done = subprocess.run([sys.executable, script, *arguments], capture_output=True, timeout=300)
        assert done.returncode == -9, done.stderr.decode()
        assert not (out / "manifest.json").exists()
        assert building.exists()
    shards = {p: p.stat().st_mtime_ns for p in (building / "shards").glob("*.npz")}
    assert len(shards) >= 4
    shutil.copytree(building, tmp_path / "copy")
    build([str(large)], out, tokenizer="sentencepiece:275", workers=0)
    assert snapshot(out) == snapshot(whole)
    assert not building.exists()
    # Killed after the last write, before the clean-up.
    (tmp_path / "copy").rename(building)
    build([str(large)], out, tokenizer="sentencepiece:275", workers=0)
    assert snapshot(out) == snapshot(whole)
    assert not building.exists()


def test_the_store_does_not_depend_on_workers_or_place(tmp_path: Path, large: Path, snapshot: Snapshot) -> None:
    one = build([str(large)], tmp_path / "one", tokenizer="bytes", workers=0)
    two = build([str(large)], tmp_path / "two", tokenizer="bytes", workers=2)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    moved = tmp_path / "elsewhere" / large.name
    moved.parent.mkdir()
    moved.write_bytes(large.read_bytes())
    three = build([str(moved)], tmp_path / "three", tokenizer="bytes", workers=0)
    assert one.fingerprint == two.fingerprint == three.fingerprint


def test_the_fingerprint_tells_stores_apart(tmp_path: Path, jsonl: Path, store: Store) -> None:
    again = build([str(jsonl)], tmp_path / "again", tokenizer="bytes", held_out=0.1, workers=0)
    assert again.fingerprint == store.fingerprint
    prints = {store.fingerprint}
    prints.add(build([str(jsonl)], tmp_path / "a", tokenizer="bytes", held_out=0.3, workers=0).fingerprint)
    prints.add(build([str(jsonl)], tmp_path / "b", tokenizer="sentencepiece:300", workers=0).fingerprint)
    changed = tmp_path / "changed" / jsonl.name
    changed.parent.mkdir()
    changed.write_text(jsonl.read_text().replace("stone", "bones", 1))
    prints.add(build([str(changed)], tmp_path / "c", tokenizer="bytes", held_out=0.1, workers=0).fingerprint)
    assert len(prints) == 4


def test_a_finished_store_is_neither_built_again_nor_mixed(tmp_path: Path, jsonl: Path, store: Store) -> None:
    def rebuild(source: Path = jsonl, tokenizer: str = "bytes", held_out: float = 0.1) -> Store:
        return build([str(source)], store.address, tokenizer=tokenizer, held_out=held_out, workers=0)

    assert rebuild().fingerprint == store.fingerprint
    with pytest.raises(UserError, match="built from tokenizer bytes instead of sentencepiece:300; name another"):
        rebuild(tokenizer="sentencepiece:300")
    with pytest.raises(UserError, match=r"10 % held out instead of 20 %"):
        rebuild(held_out=0.2)
    other = tmp_path / "other.jsonl"
    other.write_text(jsonl.read_text())
    with pytest.raises(UserError, match="other sources"):
        rebuild(source=other)
    jsonl.write_text(jsonl.read_text() + "\n")
    with pytest.raises(UserError, match="files that were changed since"):
        rebuild()


def test_an_unfinished_build_is_not_mixed(tmp_path: Path, jsonl: Path) -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        raise Stop

    with pytest.raises(Stop):
        build([str(jsonl)], tmp_path / "out", tokenizer="bytes", workers=0, report=stop)
    with pytest.raises(UserError, match=r"out.building holds an unfinished build with tokenizer bytes instead of"):
        build([str(jsonl)], tmp_path / "out", tokenizer="sentencepiece:300", workers=0)
    build([str(jsonl)], tmp_path / "out", tokenizer="bytes", workers=0)


def test_builds_of_a_version_that_read_files_otherwise(
    tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.done.documents:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "READING", build_module.READING - 1)
        old = build([str(jsonl)], tmp_path / "whole", tokenizer="bytes", workers=0)
        with pytest.raises(Stop):
            build([str(jsonl)], tmp_path / "part", tokenizer="bytes", workers=0, report=stop)
    # A whole store is what it is; an unfinished one would mix two ways of reading.
    assert build([str(jsonl)], tmp_path / "whole", tokenizer="bytes", workers=0).fingerprint == old.fingerprint
    with pytest.raises(UserError, match="another version's way of reading files"):
        build([str(jsonl)], tmp_path / "part", tokenizer="bytes", workers=0)


def test_a_workspace_is_left_as_it_was(tmp_path: Path, jsonl: Path) -> None:
    workspace = tmp_path / "work"
    workspace.mkdir()
    (workspace / "mine").write_text("precious")
    build([str(jsonl)], tmp_path / "out", tokenizer="bytes", workers=0, workspace=workspace)
    assert [p.name for p in workspace.iterdir()] == ["mine"]
    assert not (tmp_path / "out.building").exists()


def test_another_stores_tokenizer_can_be_used(tmp_path: Path, jsonl: Path) -> None:
    first = build([str(jsonl)], tmp_path / "first", tokenizer="sentencepiece:300", workers=0)
    second = build([str(jsonl)], tmp_path / "second", tokenizer=first.address, workers=0)
    assert second.fingerprint == first.fingerprint


def test_skipped_documents_are_counted_and_listed(tmp_path: Path, jsonl: Path) -> None:
    jsonl.write_text(jsonl.read_text() + "{oops\n")
    (tmp_path / "notes.txt").write_text("A note.\n")
    store = build([str(jsonl), f"notes={tmp_path}/notes.txt"], tmp_path / "out", tokenizer="bytes", workers=0)
    assert store.manifest.skipped == 1
    sentences = (tmp_path / "out/skipped.txt").read_text().splitlines()
    assert len(sentences) == 1
    assert sentences[0].startswith(f"{jsonl} line 91: not JSON")
    assert store.domains == ["notes", "poems", "tales"]
    # One document alone is trained on; of two or more at least one is held out.
    assert [store.counts(d, "held_out").documents > 0 for d in store.domains] == [False, True, True]


def test_a_source_without_any_document_is_refused(tmp_path: Path, jsonl: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"body": 1}\n{"body": 2}\n')
    with pytest.raises(UserError, match=r"bad.jsonl: not one document .* first of 2 problems: .*line 1: there is no"):
        build([str(jsonl), str(bad)], tmp_path / "out", tokenizer="bytes", workers=0)
    # Nothing is left that would prevent a build from the corrected file.
    bad.write_text('{"text": "good"}\n')
    build([str(jsonl), str(bad)], tmp_path / "out", tokenizer="bytes", workers=0)


def test_wrong_arguments_are_refused(tmp_path: Path, jsonl: Path) -> None:
    for sources, options, message in [
        ([], {}, "nothing to build from"),
        ([str(jsonl)], {"held_out": 1.0}, "below 1"),
        ([str(jsonl)], {"tokenizer": "sentencepiece:many"}, "'many' is not a number of tokens"),
        ([str(jsonl)], {"tokenizer": "wordpiece"}, "a tokenizer is bytes"),
    ]:
        with pytest.raises(UserError, match=message):
            build(sources, tmp_path / "out", workers=0, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--workspace"):
        build_module._workspace("gs://bucket/store", None)


def test_the_training_sample_is_bounded_and_spread(large: Path) -> None:
    texts = sample_texts([Source(str(large))], 1 << 20)
    assert sum(map(len, texts)) < 2 << 20
    numbers = [int(text.split("\n")[0]) for text in texts if text.split("\n")[0].isdigit()]
    assert min(numbers) < 200
    assert max(numbers) > 300
    assert sample_texts([Source(str(large))], 1 << 20) == texts


def test_progress_is_shown_and_described(tmp_path: Path, jsonl: Path) -> None:
    with (tmp_path / "log").open("w") as file, show_progress(file) as report:
        store = build([str(jsonl)], tmp_path / "out", tokenizer="sentencepiece:300", workers=0, report=report)
    log = (tmp_path / "log").read_text()
    for words in ("training the tokenizer", "tokenizing 100%", ": 90 documents", "writing the store"):
        assert words in log
    description = describe(store, samples=2, characters=9)
    assert sum(row.counts.documents for row in description.rows) == 90
    assert all(1 < row.bytes_per_token < 8 for row in description.rows)
    assert [s.text[:8] for s in description.samples] == ["Chapter "] * 4
    assert replace(description, samples=[]).__rich__()


def test_sources_that_are_held_out_are_so_as_a_whole_and_nothing_else_is(tmp_path: Path) -> None:
    def write(name: str, domains: str) -> str:
        lines = [json.dumps({"text": f"{name} {i}", "domain": d, "id": f"{name}{i}"}) for i, d in enumerate(domains)]
        (tmp_path / name).with_suffix(".jsonl").write_text("\n".join(lines))
        return str((tmp_path / name).with_suffix(".jsonl"))

    training, apart, out = write("here", "aabab"), [write("apart", "acac")], tmp_path / "out"
    store = build([training], out, tokenizer="bytes", held_out=apart, workers=0)
    counts = {
        name: (count["train"].documents, count["held_out"].documents)
        for name, count in zip(store.domains, store.manifest.counts, strict=True)
    }
    assert counts == {"a": (3, 2), "b": (2, 0), "c": (0, 2)}
    assert [document.id for document in store.held_out("c", 1000)] == ["apart1", "apart3"]
    with pytest.raises(UserError, match=r"apart.jsonl held out instead of 10 %"):
        build([training], out, tokenizer="bytes", held_out=0.1, workers=0)
