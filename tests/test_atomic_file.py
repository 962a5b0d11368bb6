"""Atomic replacement of files."""

import errno
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from pathways_lite import atomic_file
from pathways_lite.atomic_file import replace_atomically, write_text_atomically
from pathways_lite.data.tokenizer_files import save_tokenizer
from pathways_lite.data.tokenizers import ByteTokenizer
from pathways_lite.run_directory import write_json
from pathways_lite.scaling.table import write_table


@pytest.mark.parametrize("shared", [False, True])
def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "a.json"
    for text in ("old", "é\n"):
        write_text_atomically(path, text, shared=shared)
        assert path.read_bytes() == text.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write() -> None:
        with replace_atomically(path) as temporary:
            temporary.write_bytes(b"ne")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer"
    with replace_atomically(path) as temporary:
        temporary.mkdir()
        (temporary / "model").write_text("x")
        assert not path.exists()
    assert (path / "model").read_text() == "x"


def test_content_and_name_are_on_the_disk_before_the_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut there is the old file or the new one, never an empty one."""
    events: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def record_sync(descriptor: int) -> None:
        events.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_json(tmp_path / "a.json", {"x": 1})
    assert events == ["file", "rename", "directory"]
    events.clear()
    write_table({"x": np.arange(3.0)}, tmp_path / "a.csv")
    assert events == ["file", "rename", "directory"]
    events.clear()
    with replace_atomically(tmp_path / "tokenizer") as temporary:
        save_tokenizer(ByteTokenizer(), temporary)
    assert events[:2] == ["file", "directory"]
    assert events[-2:] == ["rename", "directory"]


def test_a_full_disk_is_told_with_the_file_that_was_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_file, "fsync", refuse)
    with pytest.raises(OSError, match="No space") as caught:
        write_text_atomically(tmp_path / "a.json", "x")
    assert caught.value.filename == str(tmp_path / "a.json")
    with pytest.raises(OSError, match=r"missing.a\.json'$"):
        write_text_atomically(tmp_path / "missing" / "a.json", "x")


def test_a_directory_that_cannot_be_synced_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = atomic_file.fsync

    def refuse_directories(path: Path) -> None:
        if path.is_dir():
            raise OSError(errno.EINVAL, "not here")
        fsync(path)

    monkeypatch.setattr(atomic_file, "fsync", refuse_directories)
    write_text_atomically(tmp_path / "a.json", "x")
    assert (tmp_path / "a.json").read_text() == "x"


def test_a_link_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.json").write_text("old")
    (tmp_path / "link.json").symlink_to("deep/a.json")
    write_text_atomically(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "deep" / "a.json").read_text() == "new"


def test_a_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    contents: list[str] = []
    reader = threading.Thread(target=lambda: contents.append(pipe.read_text()))
    reader.start()
    write_text_atomically(pipe, "x")
    reader.join(10)
    assert contents == ["x"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
