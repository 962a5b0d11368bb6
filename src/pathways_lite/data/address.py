"""Places where a store can live: a local directory, or gs://, s3://, memory:// through TensorStore."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import tensorstore as ts

from pathways_lite.errors import UserError

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
