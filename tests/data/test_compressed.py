"""Decompressing: all that is whole is kept, whatever stands around it, in bounded memory."""

import bz2
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.documents import read, read_items
from pathways_lite.data.compressed import BLOCK_BYTES, DamagedFileError, compression_of, read_blocks
from pathways_lite.data.records import Fields
from pathways_lite.data.sources import Source


def lz4(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


def long_window(content: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=31, strategy=1, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(
        compression_params=parameters
    ).compressobj()  # a stream: the size is not known
    return compressor.compress(content) + compressor.flush()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".xz": lzma.compress,
    ".lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    ".bz2": bz2.compress,
    ".lz4": lz4,
}
LINES = b"".join(json.dumps({"text": f"line {i} of many"}).encode() + b"\n" for i in range(2000))
TEXTS = [f"line {i} of many" for i in range(2000)]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compression_is_recognized_whatever_the_ending(tmp_path: Path, suffix: str) -> None:
    content = COMPRESS[suffix](LINES)
    endings = [f".jsonl{suffix}", f".JSONL{suffix.upper()}", f".json{suffix}"]
    # The first bytes of .lzma are no proof.
    endings += [] if suffix == ".lzma" else [".jsonl", "", "-00000-of-00001"]
    for ending in endings:
        path = tmp_path / f"x{ending}"
        path.write_bytes(content)
        documents, skipped = read(path)
        assert [d.text for d in documents] == TEXTS, ending
        assert skipped == []


def test_other_endings_of_compressions(tmp_path: Path) -> None:
    for ending, compress in {".gzip": gzip.compress, ".zstd": COMPRESS[".zst"], ".BZIP2": bz2.compress}.items():
        path = tmp_path / f"x.txt{ending}"
        path.write_bytes(compress(b"some text"))
        assert [(d.text, d.domain) for d in read(path)[0]] == [("some text", "x")]


def test_a_zstd_file_with_a_window_of_two_gibibytes_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(long_window(LINES))
    assert zstandard.get_frame_parameters(path.read_bytes()).window_size == 1 << 31
    documents, skipped = read(path)
    assert len(documents) == 2000
    assert skipped == []


def test_a_zstd_file_may_begin_with_a_skippable_frame(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\0\0\0size" + COMPRESS[".zst"](LINES))
    assert len(read(path)[0]) == 2000


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz", ".bz2"])
@given(zeros=st.integers(1, 9000), is_second=st.booleans())
@settings(max_examples=6)
def test_zeros_after_the_end_are_padding(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, zeros: int, is_second: bool
) -> None:
    compress = COMPRESS[suffix]
    path = tmp_path_factory.mktemp("t") / f"x.jsonl{suffix}"
    path.write_bytes(compress(LINES) + bytes(zeros) + (compress(LINES) if is_second else b""))
    documents, skipped = read(path)
    assert len(documents) == 2000 * (1 + is_second)
    assert skipped == []


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz", ".bz2"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.txt", "x.csv"])
def test_garbage_after_the_end_loses_nothing(tmp_path: Path, suffix: str, name: str) -> None:
    content = LINES.rstrip() if name == "x.jsonl" else b"text\nlast row" if name == "x.csv" else b"some text"
    path = tmp_path / (name + suffix)
    path.write_bytes(COMPRESS[suffix](content) + b"tail of another file")
    documents, skipped = read_items(path)
    assert documents[-1].text == {"x.jsonl": TEXTS[-1], "x.csv": "last row", "x.txt": "some text"}[name]
    assert len(documents) == (2000 if name == "x.jsonl" else 1)
    assert [s.documents for s in skipped] == [0]
    assert (
        f"what follows the end of its {suffix[1:]} data is no {suffix[1:]} data and is ignored" in skipped[0].sentence
    )


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz", ".bz2"])  # .lz4 has no checksums by default
def test_what_comes_before_a_damage_is_kept(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.jsonl{suffix}"
    text = b"".join(json.dumps({"text": f"{i * 7919**3 % 1000003} {i}"}).encode() + b"\n" for i in range(120_000))
    content = bytearray(COMPRESS[suffix](text))
    content[-200:-100] = bytes(100)  # near the end
    path.write_bytes(content)
    documents, skipped = read(path)
    assert len(documents) > (0 if suffix == ".bz2" else 20_000)  # bzip2 checks blocks of 900 kB
    assert [d.text.split()[1] for d in documents] == [str(i) for i in range(len(documents))]
    assert "damaged" in skipped[-1] or "ends in the middle" in skipped[-1]
    assert skipped[-1].endswith("this line and all after it are lost")


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz", ".bz2", ".lz4"])
def test_a_small_file_that_decompresses_to_much_is_refused_in_bounded_memory(tmp_path: Path, suffix: str) -> None:
    once = COMPRESS[suffix](b"x" * (32 << 20))
    for name, sentence in {
        "bomb.txt": "bomb.txt{}: longer than 4 MiB, the most text of one document; split it, or allow more with "
        "--max-document-mib",
        "bomb.jsonl": "bomb.jsonl{} line 1: longer than 4 MiB",
        "bomb.csv": "bomb.csv{} line 1: longer than 4 MiB",
        "bomb.json": "bomb.json{} value 1: longer than 4 MiB",
    }.items():
        path = tmp_path / (name + suffix)
        path.write_bytes(once)
        tracemalloc.start()
        documents, skipped = read(Source(str(path), Fields(max_document_bytes=4 << 20)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert documents == []
        assert sentence.format(suffix) in skipped[0]
        assert peak < 200 << 20


def test_blocks_of_a_bomb_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zst"
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    path.write_bytes(b"".join(compressor.compress(bytes(1 << 22)) for _ in range(64)) + compressor.flush())
    assert path.stat().st_size < 1 << 15
    assert all(len(block) <= BLOCK_BYTES + (128 << 20) for block, _ in islice(read_blocks(path), 4))


def test_a_long_line_is_left_out_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "' + b"x" * (5 << 20) + b'"}\n{"text": "three"}\n')
    documents, skipped = read(Source(str(path), Fields(max_document_bytes=1 << 20)))
    assert [(d.id, d.text) for d in documents] == [("x.jsonl:1", "one"), ("x.jsonl:3", "three")]
    assert skipped[0].startswith(f"{path} line 2: longer than 1 MiB")


def test_text_that_begins_like_a_compression_is_text() -> None:
    assert compression_of("x.txt", b"BZh is how bzip2 files begin") is None
    assert compression_of("x.txt", b"]\0\0 is how lzma files begin") is None


def test_used_bytes_add_up_to_the_file(tmp_path: Path) -> None:
    for suffix, compress in COMPRESS.items():
        path = tmp_path / f"x{suffix}"
        path.write_bytes(compress(LINES) + (compress(LINES) if suffix != ".lzma" else b""))
        assert sum(used for _, used in read_blocks(path)) == path.stat().st_size, suffix


def test_a_directory_in_place_of_a_file_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match="cannot be read"):
        list(read_blocks(tmp_path))
