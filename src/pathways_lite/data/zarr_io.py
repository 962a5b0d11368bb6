"""One-dimensional zarr3 arrays of a token store: how they are laid out, written and opened."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from pathways_lite.errors import UserError

# Places where a store can live: a local directory, or gs://, s3://, memory:// through TensorStore.


_REMOTE = re.compile(r"(gs|s3|memory|http|https)://")


def is_remote(address: str) -> bool:
    return _REMOTE.match(address) is not None


def kvstore(address: str, *parts: str) -> Any:
    """TensorStore's name of the directory `address/parts...`, as JSON or as URL."""
    if is_remote(address):
        return "/".join([address.rstrip("/"), *parts]) + "/"
    if "://" in address:
        scheme = address.partition("://")[0]
        raise UserError(f"{address}: {scheme}:// is no known kind of storage; use a local path, gs:// or s3://")
    # Not a URL: a URL would have to be percent-encoded, and paths may hold any character.
    return {"driver": "file", "path": str(Path(address, *parts).absolute()) + "/"}


@cache
def _open(address: str) -> Any:
    return ts.KvStore.open(kvstore(address), context=shared_context()).result()


@cache
def shared_context() -> ts.Context:
    """One cache for all reads of a process: hot chunks are decoded once."""
    return ts.Context({"cache_pool": {"total_bytes_limit": 256 << 20}})


def read_file(address: str, name: str) -> bytes | None:
    """The small file `name` under `address`; None where there is none."""
    found = _open(address).read(name).result()
    return bytes(found.value) if found.state == "value" else None


def write_file(address: str, name: str, content: bytes) -> None:
    """Write the file `name` under `address` as a whole: a reader sees the old or the new one."""
    _open(address).write(name, content).result()


# A shard is one file, a chunk the least that is read. Chunks of 4 k to 16 k tokens read random windows of 2 k
# tokens equally fast (tools/bench_data.py), at 65 k they are a third slower without a cache; shards of 4 M keep
# the number of files small (8 MB each at uint16) and bound the writer's memory.
CHUNK = 8192
SHARD = 512 * CHUNK


def open_array(address: str, path: str) -> Any:
    """An existing array for reading. Raises ValueError where it is missing or damaged."""
    spec = {"driver": "zarr3", "kvstore": kvstore(address, path)}
    return ts.open(spec, read=True, context=shared_context()).result()


def _create(address: str, path: str, dtype: np.dtype, length: int) -> Any:
    little, checked = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
    plain = [little, checked] if dtype.itemsize > 1 else [{"name": "bytes"}, checked]
    sharding = {"chunk_shape": [CHUNK], "codecs": plain, "index_codecs": [little, checked]}
    metadata = {
        "shape": [length],
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SHARD]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    spec = {"driver": "zarr3", "kvstore": kvstore(address, path), "metadata": metadata}
    return ts.open(spec, create=True, delete_existing=True).result()


class ArrayWriter:
    """Writes an array of known length front to back, one whole shard at a time, and hashes what it writes."""

    def __init__(self, address: str, path: str, dtype: np.dtype, length: int) -> None:
        self._array = _create(address, path, dtype, length)
        self._dtype = dtype
        self._length = length
        self._written = 0
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0
        self._digest = hashlib.sha256()

    def append(self, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values, dtype=self._dtype)
        self._digest.update(values.astype(self._dtype.newbyteorder("<"), copy=False).tobytes())
        self._waiting.append(values)
        self._n_waiting += len(values)
        if self._n_waiting >= SHARD:
            waiting = np.concatenate(self._waiting)
            whole = len(waiting) // SHARD * SHARD
            for at in range(0, whole, SHARD):
                self._write(waiting[at : at + SHARD])
            self._waiting, self._n_waiting = [waiting[whole:]], len(waiting) - whole

    def close(self) -> str:
        """Write what is left; returns the SHA-256 of all values (little-endian)."""
        if self._n_waiting:
            self._write(np.concatenate(self._waiting))
        if self._written != self._length:
            raise ValueError(f"the array was made for {self._length} values, but got {self._written}")
        return self._digest.hexdigest()

    def _write(self, values: np.ndarray) -> None:
        stop = self._written + len(values)
        # In a transaction, the chunks of a shard are written as one file; else each would rewrite the shard.
        with ts.Transaction() as transaction:
            self._array.with_transaction(transaction)[self._written : stop].write(values).result()
        self._written = stop
