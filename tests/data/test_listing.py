"""Directories: every file once, through links too, and never what the build itself writes."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.documents import read
from pathways_lite.data.build import build
from pathways_lite.data.listing import list_directory
from pathways_lite.data.sources import Source
from pathways_lite.errors import UserError


def names(root: Path) -> list[str]:
    return [name.as_posix() for name in list_directory(root).names]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("src/a.txt", "src/inner/b.txt", "disk/c.txt", "disk/deep/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    return tmp_path / "src"


def test_linked_directories_are_read(root: Path, tmp_path: Path) -> None:
    (root / "remote").symlink_to(tmp_path / "disk")
    (root / "file.txt").symlink_to(tmp_path / "disk/deep/d.txt")
    listing = list_directory(root)
    # The link to the file comes first in the order of names.
    assert [n.as_posix() for n in listing.names] == ["a.txt", "file.txt", "inner/b.txt", "remote/c.txt"]
    assert listing.followed == [
        f"{root}/file.txt -> {tmp_path}/disk/deep/d.txt",
        f"{root}/remote -> {tmp_path}/disk",
    ]
    assert [s.sentence for s in listing.left_out] == [f"{root}/remote/deep/d.txt: a file that is read in another place"]


def test_nothing_is_read_twice(root: Path, tmp_path: Path) -> None:
    (root / "again").symlink_to(root / "inner")
    (root / "again.txt").symlink_to("a.txt")
    (root / "first").symlink_to(tmp_path / "disk")
    (root / "second").symlink_to(tmp_path / "disk")
    assert names(root) == ["a.txt", "first/c.txt", "first/deep/d.txt", "inner/b.txt"]
    left_out = list_directory(root).left_out
    assert [s.documents for s in left_out] == [0, 0, 0]
    assert all("read in another place" in s.sentence for s in left_out)


def test_circles_end(root: Path, tmp_path: Path) -> None:
    (root / "inner/up").symlink_to("..")
    (root / "far").symlink_to("/")
    (root / "self").symlink_to("self")
    (tmp_path / "disk/back").symlink_to(root)
    (root / "remote").symlink_to(tmp_path / "disk")
    assert names(root) == ["a.txt", "inner/b.txt", "remote/c.txt", "remote/deep/d.txt"]
    assert sum("a link that leads nowhere" in s.sentence for s in list_directory(root).left_out) == 1


@given(links=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["..", ".", "a", "b", "c/x", "../b", "/"]))))
@settings(max_examples=40)
def test_any_links_leave_every_file_once(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("t") / "root"
    for directory in "abc":
        (root / directory / "x").mkdir(parents=True)
        (root / directory / "x/file.txt").write_text(directory)
    for i, (directory, target) in enumerate(links):
        parent = root / directory
        parent.mkdir(exist_ok=True)
        (parent / f"link{i}").symlink_to(target)
    inodes = [(root / name).stat().st_ino for name in list_directory(root).names]
    assert len(inodes) == len(set(inodes)) == 3


def test_what_cannot_be_read_is_named(root: Path) -> None:
    (root / "broken.txt").symlink_to("/no/such/file.txt")
    os.mkfifo(root / "pipe")
    documents, skipped = read(root)
    assert len(documents) == 2
    assert sorted(skipped) == [
        f"{root}/broken.txt: a link that leads nowhere (to /no/such/file.txt)",
        f"{root}/pipe: neither a file nor a directory",
    ]


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"d\xe9")
    root.mkdir()
    (root / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    (root / os.fsdecode(b"z\xff.jsonl")).write_text('{"text": "record"}\noops\n')
    (root / "new\nline.txt").write_bytes(b"\xff")
    documents, skipped = read(root)
    assert [(d.id, d.domain) for d in documents] == [
        ("d\\xe9/caf\\xe9.txt", "d\\xe9"),
        ("d\\xe9/z\\xff.jsonl:1", "z\\xff"),
    ]
    assert [sentence.removeprefix(f"{tmp_path}/") for sentence in skipped] == [
        "d\\xe9/new\\nline.txt: not UTF-8 (byte 0xff at offset 0)",
        "d\\xe9/z\\xff.jsonl line 2: not JSON (Expecting value: line 1 column 1 (char 0))",
    ]
    (tmp_path / "other.txt").write_text("other text")
    other = str(tmp_path / "other.txt")
    for sources, held_out in (([str(root)], [other]), ([other], [str(root)])):
        store = build(sources, tmp_path / "out", tokenizer="bytes", held_out=held_out, workers=0)
        assert store.manifest.skipped == 2
        assert len((tmp_path / "out/skipped.txt").read_text().splitlines()) == 2
        shutil.rmtree(tmp_path / "out")


def test_a_store_inside_its_source_is_not_read(root: Path, tmp_path: Path) -> None:
    out = root / "stores/mine"
    first = build([str(root)], out, tokenizer="sentencepiece:276", workers=0)
    assert sum(c.documents for counts in first.manifest.counts for c in counts.values()) == 2
    assert build([str(root)], out, tokenizer="sentencepiece:276", workers=0).fingerprint == first.fingerprint
    # Neither are other stores, nor unfinished ones.
    (root / "other.building").mkdir()
    (root / "other.building/plan.json").write_text("{}")
    documents, skipped = read(root)
    assert len(documents) == 2
    assert sorted(skipped) == [
        f"{root}/other.building: a token store, not text",
        f"{root}/stores/mine: a token store, not text",
    ]
    outside = build([str(root)], tmp_path / "outside", tokenizer="bytes", workers=0)
    assert outside.manifest.skipped == 0


def test_a_workspace_inside_a_source_is_not_read(root: Path, tmp_path: Path) -> None:
    for _ in range(2):
        store = build([str(root)], tmp_path / "out", tokenizer="bytes", workers=0, workspace=root)
        assert sum(c.documents for counts in store.manifest.counts for c in counts.values()) == 2


def test_a_store_as_a_source_is_refused(root: Path, tmp_path: Path) -> None:
    build([str(root)], tmp_path / "out", tokenizer="bytes", workers=0)
    with pytest.raises(UserError, match=r"out is a token store, not text; .* pathways-lite data select"):
        Source(str(tmp_path / "out")).files()
