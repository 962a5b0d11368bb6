import gzip
import lzma
import random
import shutil
import subprocess

import pytest
import zstandard

from pathways_lite.evaluation.compressors import COMPRESSORS, compressed_bits_per_byte

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
