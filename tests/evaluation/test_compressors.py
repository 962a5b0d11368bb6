import gzip
import lzma
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard

from pathways_lite.data.store import open_store
from pathways_lite.evaluation import compressors
from pathways_lite.evaluation.bits import ScoredDocument
from pathways_lite.evaluation.compressors import COMPRESSORS, compressed_bits_per_byte, held_out_compression

TEXTS = [" ".join(random.Random(i).choices(["let", "the", "law", "of", "é"], k=2000)).encode() for i in range(3)]
DECOMPRESS = {"xz -9": lzma.decompress, "zstd -19": zstandard.decompress, "gzip -9": gzip.decompress}


def test_each_compressor_gives_the_text_back() -> None:
    data = b"".join(TEXTS)
    for name, compress in COMPRESSORS.items():
        assert DECOMPRESS[name](compress(data)) == data


def test_bits_per_byte_are_of_all_texts_together() -> None:
    bits = compressed_bits_per_byte(TEXTS)
    assert bits == compressed_bits_per_byte([b"".join(TEXTS)])
    assert bits["xz -9"] == 8 * len(lzma.compress(b"".join(TEXTS), preset=9)) / len(b"".join(TEXTS))
    noise = compressed_bits_per_byte([random.Random(0).randbytes(20_000)])
    assert all(8 < noise[name] < 8.1 for name in bits), "noise does not compress"
    assert compressed_bits_per_byte([]) == {}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_sizes_are_those_of_the_command(name: str) -> None:
    program = name.split()[0]
    if shutil.which(program) is None:
        pytest.skip(f"no {program} on this machine")
    command = [*name.split(), "--stdout", *(["-T1"] if program == "xz" else [])]
    data = b"".join(TEXTS)
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    # Programs differ from libraries by a few bytes of header.
    assert len(COMPRESSORS[name](data)) == pytest.approx(len(done.stdout), abs=16)


@pytest.mark.parametrize("may_write", [True, False])
def test_results_are_kept_with_the_corpus_or_for_the_user(
    corpus: Path, tmp_path: Path, may_write: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(corpus, tmp_path / "store")
    (tmp_path / "store" / compressors.FILE).unlink(missing_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if not may_write:

        def refuse(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(compressors, "write_file", refuse)
    store = open_store(str(tmp_path / "store"))

    def scored(budget: int) -> dict[str, list[ScoredDocument]]:
        domains = {name: store.held_out(name, budget) for name in store.domains}
        return {
            name: [ScoredDocument(d.tokens, d.text_bytes, d.is_whole) for d in found] for name, found in domains.items()
        }

    first = held_out_compression(store, scored(300), 300)
    texts = [store.tokenizer().decode(d.tokens[1:].tolist()).encode() for d in scored(300)["poems"]]
    assert first["poems"] == compressed_bits_per_byte(texts)
    assert (tmp_path / "store" / compressors.FILE).exists() is may_write
    larger = held_out_compression(store, scored(900), 900)
    assert larger != first, "another budget is other text"

    def never(_: object) -> dict[str, float]:
        raise AssertionError("compressed again")

    monkeypatch.setattr(compressors, "compressed_bits_per_byte", never)
    assert held_out_compression(store, scored(300), 300) == first
    assert held_out_compression(store, scored(900), 900) == larger
    with pytest.raises(AssertionError, match="compressed again"):
        held_out_compression(store, {"poems": scored(900)["poems"]}, 300)  # not the documents of that budget
