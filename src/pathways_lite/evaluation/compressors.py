"""Bits per byte of general-purpose compressors (xz, zstd, gzip) on held-out text: what a model has to beat.

They depend on the corpus alone, and take seconds, so they are kept with it, in compressors.json; where the corpus
cannot be written, in the user's cache.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import zstandard

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.data.held_out_text import HeldOutSource
from pathways_lite.data.store import Store
from pathways_lite.data.zarr_io import read_file, write_file
from pathways_lite.evaluation.bits import ScoredDocument
from pathways_lite.paths import user_cache

FILE = "compressors.json"

# Named by the command lines whose result they equal, except for a few bytes of header (gzip's file name).
# `xz -9` is liblzma's preset 9, not the slower `xz -9e`.
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "xz -9": lambda data: lzma.compress(data, format=lzma.FORMAT_XZ, preset=9),
    "zstd -19": lambda data: zstandard.ZstdCompressor(level=19).compress(data),
    "gzip -9": lambda data: gzip.compress(data, compresslevel=9, mtime=0),
}


def compressed_bits_per_byte(texts: Iterable[bytes]) -> dict[str, float]:
    """Compress the concatenated `texts` with each of `COMPRESSORS`; return bits per byte, empty for no text.

    The comparison favors each side in one way: a compressor starts without any text and sees only these bytes; a model
    has read its training text before, and its own size is not counted.
    """
    data = b"".join(texts)
    if not data:
        return {}
    return {name: 8 * len(compress(data)) / len(data) for name, compress in COMPRESSORS.items()}


def held_out_compression(
    source: HeldOutSource, documents: Mapping[str, list[ScoredDocument]], budget: int
) -> dict[str, dict[str, float]]:
    """Return `compressed_bits_per_byte` of each domain's held-out documents, computed once per corpus and budget.

    `documents`: those that are scored with a budget of `budget` tokens per domain. Their number and bytes must match
    what is kept. Several processes may call this at once: a result that is lost to another one is computed again.
    Nothing is kept for held-out text without its corpus.
    """
    kept = _read(source) if isinstance(source, Store) else {}
    results, missing = {}, False
    tokenizer = source.tokenizer()
    for domain, scored in documents.items():
        size = {"budget": budget, "documents": len(scored), "bytes": sum(document.text_bytes for document in scored)}
        key = f"{domain} {budget}"
        entry = kept.get(key, {})
        if entry.get("size") != size or set(entry.get("bits_per_byte", ())) != set(COMPRESSORS):
            texts = (tokenizer.decode(document.tokens[1:].tolist()).encode() for document in scored)
            entry = {"size": size, "bits_per_byte": compressed_bits_per_byte(texts)}
            kept[key], missing = entry, True
        results[domain] = dict(entry["bits_per_byte"])
    if missing and isinstance(source, Store):
        _write(source, kept)
    return results


def are_kept(source: HeldOutSource, budget: int) -> bool:
    """Return whether the results for the budget of tokens are kept, without reading the text, which could differ."""
    if not isinstance(source, Store):
        return False
    kept = _read(source)
    return all(f"{domain} {budget}" in kept for domain in source.domains)


def _read(store: Store) -> dict[str, Any]:
    """Return what is kept for the corpus; nothing if it cannot be read or belongs to another corpus."""
    entries: dict[str, Any] = {}
    for read in (lambda: _cache_path(store).read_bytes(), lambda: read_file(store.address, FILE)):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = json.loads(read() or b"{}")
            if content.get("fingerprint") == store.fingerprint:
                entries |= content["entries"]
    return {key: entry for key, entry in entries.items() if isinstance(entry, dict)}


def _write(store: Store, entries: Mapping[str, Any]) -> None:
    content = json.dumps({"fingerprint": store.fingerprint, "entries": entries}, indent=1)
    try:
        write_file(store.address, FILE, content.encode())
    except (OSError, ValueError):  # TensorStore raises both where it may not write
        with suppress(OSError):
            path = _cache_path(store)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(path, content, shared=True)


def _cache_path(store: Store) -> Path:
    return user_cache() / "compressors" / f"{store.fingerprint}.json"
