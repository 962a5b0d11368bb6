"""Archives: their files are read as those of a directory are, without being unpacked."""

import gzip
import io
import json
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.documents import read
from pathways_lite.data.records import Fields
from pathways_lite.data.sources import Source

LINES = b"".join(json.dumps({"text": f"record {i}"}).encode() + b"\n" for i in range(3))
FILES = {
    "a/one.txt": b"one",
    "a/.hidden": b"no",
    "a/._one.txt": b"no",
    "two.txt.gz": gzip.compress(b"two"),
    "three.jsonl": LINES,
    "four.csv": b"text\nfour\n",
    "picture": b"\x89PNG\r\n\x1a\n\0\0",
    "inner.zip": b"PK\3\4rest",
    "latin.txt": b"caf\xe9",
    "empty.txt": b"",
    "five.txt": b"five",
}


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


ARCHIVES: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "x.tar": tar,
    "x.tar.gz": lambda files: tar(files, "w:gz"),
    "x.TGZ": lambda files: tar(files, "w:gz"),
    "x.tar.xz": lambda files: tar(files, "w:xz"),
    "x.tbz2": lambda files: tar(files, "w:bz2"),
    "x.zip": zipped,
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_all_files_of_an_archive_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(ARCHIVES[name](FILES))
    documents, skipped = read(path)
    assert sorted((d.id, d.domain, d.text) for d in documents) == sorted(
        [
            (f"{name}/a/one.txt", "x", "one"),
            (f"{name}/two.txt.gz", "x", "two"),
            *((f"{name}/three.jsonl:{i + 1}", "three", f"record {i}") for i in range(3)),
            (f"{name}/four.csv:2", "four", "four"),
            (f"{name}/five.txt", "x", "five"),
        ]
    )
    assert sorted(skipped) == sorted(
        [
            f"{path}/picture: a PNG image",
            f"{path}/inner.zip: zip archives inside an archive is not read; unpack the archive",
            f"{path}/latin.txt: not UTF-8 (byte 0xe9 at offset 3)",
            f"{path}/empty.txt: the file is empty",
        ]
    )
    assert {d.domain for d in read(f"mine={path}")[0]} == {"mine"}


def test_a_tar_without_its_ending_is_recognized(tmp_path: Path) -> None:
    path = tmp_path / "download"
    path.write_bytes(gzip.compress(tar({"a.txt": b"a text"})))
    assert [d.text for d in read(path)[0]] == ["a text"]


def test_many_small_files_share_chunks(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar({f"{i:05d}.txt": b"word " * 100 for i in range(2000)}))
    chunks = list(Source(str(path)).chunks())
    assert 3 < len(chunks) < 10
    assert sum(chunk.input_bytes for chunk in chunks) <= path.stat().st_size
    assert [d.id for d in read(path)[0]] == [f"x.tar/{i:05d}.txt" for i in range(2000)]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_a_cut_archive_keeps_what_came_before(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    files = {f"{i}.txt": bytes(str(i * 7919**20), "ascii") * 40 for i in range(30)}
    content = ARCHIVES[name](files)
    path.write_bytes(content[: len(content) // 2])
    documents, skipped = read(path)
    assert [d.text.encode() for d in documents] == list(files.values())[: len(documents)]
    assert len(documents) > 5
    assert any("is lost" in sentence for sentence in skipped)


def test_a_damaged_header_does_not_end_an_archive_silently(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    content = bytearray(tar({f"{i}.txt": b"text" for i in range(9)}))
    content[4 * 1024 + 148 : 4 * 1024 + 156] = b"99999999"  # the checksum of the fifth header
    path.write_bytes(content)
    documents, skipped = read(path)
    assert len(documents) == 4
    assert len(skipped) == 1
    assert "the archive is damaged" in skipped[0]


def test_a_lie_about_a_size_costs_no_time(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    info = tarfile.TarInfo("big.txt")
    info.size = 1 << 50
    for content in (b"short", b"\x89PNG\r\n\x1a\n"):  # read, and left out
        path.write_bytes(info.tobuf() + content)
        start = time.monotonic()
        documents, skipped = read(path)
        assert time.monotonic() - start < 5
        assert documents == []
        assert "the archive ends in the middle of big.txt" in skipped[-1]


def test_links_and_devices_of_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in {"passwd": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    documents, skipped = read(path)
    assert documents == []
    assert skipped[:2] == [
        f"{path}/passwd: a link in an archive (to /etc/passwd), which is not followed",
        f"{path}/hard: a link in an archive (to /etc/passwd), which is not followed",
    ]
    assert skipped[2] == f"{path}/fifo: not a file"


def test_damaged_and_encrypted_members_of_zips_are_left_out_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    content = bytearray(zipped({"a.txt": b"first " * 99, "b.txt": b"second", "c.txt": b"third"}))
    content[content.find(b"a.txt") + 8] ^= 0xFF
    at = content.rfind(b"b.txt") - 46 + 8  # flags in the directory at the end
    content[at] |= 1
    path.write_bytes(content)
    documents, skipped = read(path)
    assert [d.text for d in documents] == ["third"]
    assert skipped[0].startswith(f"{path}/a.txt: damaged in the archive")
    assert skipped[1] == f"{path}/b.txt: encrypted"


def test_a_member_that_decompresses_to_much_is_left_out_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(zipped({"bomb.txt": b"x" * (64 << 20), "good.txt": b"good"}))
    documents, skipped = read(Source(str(path), Fields(max_document_bytes=1 << 20)))
    assert [d.text for d in documents] == ["good"]
    assert skipped[0].startswith(f"{path}/bomb.txt: longer than 1 MiB")


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    for name, content, reason in [
        ("x.zip", b"no zip", "not a whole zip archive"),
        ("x.tar", b"no tar" * 200, "the archive is damaged"),
        ("empty.zip", zipped({}), "the archive holds no files"),
        ("empty.tar", tar({}), "the archive holds no files"),
    ]:
        (tmp_path / name).write_bytes(content)
        documents, skipped = read(tmp_path / name)
        assert documents == []
        assert reason in skipped[0], name
