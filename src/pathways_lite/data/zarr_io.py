"""Read and write the files of a token store through TensorStore: one-dimensional zarr3 arrays, and small files.

`store` reads with it, `assemble` writes with it. An address is a local directory, or a gs:// or s3:// prefix.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from pathways_lite.paths import STORAGES, absolute_path, storage_address, url_scheme


def is_remote(address: str) -> bool:
    """Return True for a `gs://` or `s3://` prefix."""
    return url_scheme(address) in STORAGES


def kvstore(address: str, *path: str) -> Any:
    """Return TensorStore's spec of the directory `address/path...`. Raises UserError for an unknown URL scheme."""
    address = storage_address(address)
    if is_remote(address):
        return "/".join([address.rstrip("/"), *path]) + "/"
    # Not a URL: a URL would have to be percent-encoded, and paths may contain any character.
    return {"driver": "file", "path": absolute_path(Path(address, *path)) + "/"}


def _open_kvstore(address: str) -> Any:
    # By the absolute path, as a relative one is another directory once the working directory has changed.
    spec = kvstore(address)
    return _open_spec(spec if isinstance(spec, str) else spec["path"], is_remote(address))


@cache
def _open_spec(location: str, remote: bool) -> Any:
    spec = location if remote else {"driver": "file", "path": location}
    return ts.KvStore.open(spec, context=shared_context()).result()


@cache
def shared_context() -> ts.Context:
    """Return the context of all reads of a process, with one cache: hot chunks are decoded once."""
    return ts.Context({"cache_pool": {"total_bytes_limit": 256 << 20}})


def read_file(address: str, name: str) -> bytes | None:
    """Read the small file `name` under `address`; None if there is none."""
    result = _open_kvstore(address).read(name).result()
    return bytes(result.value) if result.state == "value" else None


def write_file(address: str, name: str, content: bytes) -> None:
    """Write the small file `name` under `address` atomically."""
    _open_kvstore(address).write(name, content).result()


# zarr's words: a shard is one file, a chunk the unit of reading. Chunks of 4 k to 16 k tokens read random windows of
# 2 k tokens equally fast (tools/bench_data.py), at 65 k they are a third slower without a cache; shards of 4 M keep the
# number of files small (8 MB each at uint16) and bound the writer's memory.
CHUNK = 8192
SHARD = 512 * CHUNK


def open_array(address: str, path: str) -> Any:
    """Open an existing array for reading. Raises ValueError if it is missing or damaged."""
    spec = {"driver": "zarr3", "kvstore": kvstore(address, path)}
    return ts.open(spec, read=True, context=shared_context()).result()


def _create_array(address: str, path: str, dtype: np.dtype, length: int) -> Any:
    little_endian, checksum = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
    codecs = [little_endian, checksum] if dtype.itemsize > 1 else [{"name": "bytes"}, checksum]
    sharding = {"chunk_shape": [CHUNK], "codecs": codecs, "index_codecs": [little_endian, checksum]}
    metadata = {
        "shape": [length],
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SHARD]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    spec = {"driver": "zarr3", "kvstore": kvstore(address, path), "metadata": metadata}
    return ts.open(spec, create=True, delete_existing=True).result()


class ArrayWriter:
    """Writes an array of known length from start to end, one whole shard at a time, and hashes its values."""

    def __init__(self, address: str, path: str, dtype: np.dtype, length: int) -> None:
        self._array = _create_array(address, path, dtype, length)
        self._dtype = dtype
        self._length = length
        self._written = 0
        self._pending: list[np.ndarray] = []
        self._n_pending = 0
        self._digest = hashlib.sha256()

    def append(self, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values, dtype=self._dtype)
        self._digest.update(values.astype(self._dtype.newbyteorder("<"), copy=False).tobytes())
        self._pending.append(values)
        self._n_pending += len(values)
        if self._n_pending >= SHARD:
            pending = np.concatenate(self._pending)
            stop = len(pending) // SHARD * SHARD
            for start in range(0, stop, SHARD):
                self._write(pending[start : start + SHARD])
            self._pending, self._n_pending = [pending[stop:]], len(pending) - stop

    def close(self) -> str:
        """Write the remaining values; return the SHA-256 of all values (little-endian)."""
        if self._n_pending:
            self._write(np.concatenate(self._pending))
        if self._written != self._length:
            raise ValueError(f"the array was created for {self._length} values, but got {self._written}")
        return self._digest.hexdigest()

    def _write(self, values: np.ndarray) -> None:
        stop = self._written + len(values)
        # In a transaction, the chunks of a shard are written as one file; otherwise each would rewrite the shard.
        with ts.Transaction() as transaction:
            self._array.with_transaction(transaction)[self._written : stop].write(values).result()
        self._written = stop
