"""Atomic replacement of files."""

from pathlib import Path

import pytest

from pathways_lite.atomic_file import replace_atomically, write_text_atomically


@pytest.mark.parametrize("shared", [False, True])
def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "a.json"
    for text in ("old", "é\n"):
        write_text_atomically(path, text, shared=shared)
        assert path.read_bytes() == text.encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("sync", [False, True])
def test_a_failed_write_changes_nothing(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write() -> None:
        with replace_atomically(path, sync=sync) as temporary:
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
