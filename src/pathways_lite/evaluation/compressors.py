"""What general compressors make of the held-out text: the bits per byte that a model has to beat.

The comparison is generous to both sides in its own way: a compressor starts from nothing and sees only these
bytes; a model has read its training text before, and its own size is not counted.
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable, Iterable

import zstandard

# The names are the command lines whose result they equal, but for a few bytes of header (gzip's file name).
# `xz -9` is liblzma's preset 9, not the slower `xz -9e`.
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "xz -9": lambda data: lzma.compress(data, format=lzma.FORMAT_XZ, preset=9),
    "zstd -19": lambda data: zstandard.ZstdCompressor(level=19).compress(data),
    "gzip -9": lambda data: gzip.compress(data, compresslevel=9, mtime=0),
}


def compressed_bits_per_byte(texts: Iterable[bytes]) -> dict[str, float]:
    """Bits per byte of the concatenated `texts` by each of `COMPRESSORS`. Empty for no text."""
    data = b"".join(texts)
    if not data:
        return {}
    return {name: 8 * len(compress(data)) / len(data) for name, compress in COMPRESSORS.items()}
