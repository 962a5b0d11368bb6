"""Read and write the files of a token store through TensorStore: one-dimensional zarr3 arrays, and small files.

`pieces` reads and writes arrays with it. An address is a local directory, or a gs:// or s3:// prefix.
"""

from __future__ import annotations

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


def describe_absence(address: str, name: str) -> str | None:
    """Return "is missing" or "is empty" for such a file `name` under `address`; None for one that has content."""
    try:
        result = _open_kvstore(address).read(name, byte_range=slice(0, 1)).result()
    except ValueError:  # there is no first byte
        return "is empty"
    return "is missing" if result.state == "missing" else None


def write_file(address: str, name: str, content: bytes) -> None:
    """Write the small file `name` under `address` atomically."""
    _open_kvstore(address).write(name, content).result()


# zarr's words: a shard is one file, a chunk the unit of reading. Chunks of 4 k to 16 k tokens read random windows of
# 2 k tokens equally fast (tools/bench_data.py), at 65 k they are a third slower without a cache; shards of 4 M keep the
# number of files small (8 MB each at uint16) and bound the writer's memory. Files of short arrays are no longer than
# the arrays, as a corpus may have hundreds of domains.
CHUNK = 8192
SHARD = 512 * CHUNK


def open_array(address: str, path: str, *, fill_missing: bool = True) -> Any:
    """Open an existing array for reading. Raises ValueError if it is missing or damaged.

    With `fill_missing`, chunks that are not there are read as zeros: stores without digests leave out chunks of zeros.
    """
    spec = {"driver": "zarr3", "kvstore": kvstore(address, path), "fill_missing_data_reads": fill_missing}
    return ts.open(spec, read=True, context=shared_context()).result()


def create_array(address: str, path: str, dtype: np.dtype, length: int) -> Any:
    """Create an array, or replace an existing one."""
    little_endian, checksum = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
    codecs = [little_endian, checksum] if dtype.itemsize > 1 else [{"name": "bytes"}, checksum]
    chunk = max(1, min(CHUNK, length))
    shard = min(SHARD, -(-max(1, length) // chunk) * chunk)
    sharding = {"chunk_shape": [chunk], "codecs": codecs, "index_codecs": [little_endian, checksum]}
    metadata = {
        "shape": [length],
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    # Chunks of zeros are written too, so that a chunk that is not there is a loss.
    options = {"metadata": metadata, "store_data_equal_to_fill_value": True}
    spec = {"driver": "zarr3", "kvstore": kvstore(address, path), **options}
    return ts.open(spec, create=True, delete_existing=True).result()


def write_array(array: Any, start: int, values: np.ndarray) -> None:
    """Write `values` at `start`, the beginning of a shard."""
    # In a transaction, the chunks of a shard are written as one file; otherwise each would rewrite the shard.
    with ts.Transaction() as transaction:
        array.with_transaction(transaction)[start : start + len(values)].write(values).result()
