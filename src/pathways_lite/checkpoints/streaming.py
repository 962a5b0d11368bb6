"""Write and read checkpoints larger than the memory, one chunk at a time, in one process."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.checkpoints import orbax_io
from pathways_lite.checkpoints.checkpoint import (
    SYNC_THREADS,
    TEMPORARY,
    checkpoint_name,
    commit,
    read_manifest,
    sync_files,
)
from pathways_lite.checkpoints.companions import ARRAYS, write_companions
from pathways_lite.checkpoints.fingerprint import Fingerprint, fingerprint
from pathways_lite.checkpoints.manifest import ArraySpec, Manifest
from pathways_lite.checkpoints.reader import CheckpointReader
from pathways_lite.errors import UserError

ArrayChunk = tuple[tuple[int, ...], np.ndarray]
"""The start position of a chunk in its array, and the chunk's content."""


@dataclass(frozen=True)
class StreamedArray(ArraySpec):
    """An array whose chunks are computed when they are written.

    chunk_shape: the shape of all chunks but those at the end of an axis, which may be shorter.
    make_chunks: yields the chunks.
    """

    chunk_shape: tuple[int, ...]
    make_chunks: Callable[[], Iterator[ArrayChunk]]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def open_checkpoint(path: Path) -> tuple[Manifest, CheckpointReader]:
    """Open a checkpoint to read slices of its arrays. Raises DamagedError if its manifest is damaged.

    Call `require_undamaged` when all has been read: until then the arrays are not verified.
    """
    manifest = read_manifest(path)
    return manifest, CheckpointReader(path / ARRAYS, manifest)


def require_absent(directory: Path, step: int = 0) -> None:
    """Raise UserError where a directory has a checkpoint of a step already."""
    if (final := directory / checkpoint_name(step)).exists():
        raise UserError(f"{final} exists; name another directory")


def write_streamed(
    directory: Path,
    step: int,
    arrays: Mapping[str, StreamedArray],
    meta: dict[str, Any],
    check: Callable[[], None],
    companions: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a checkpoint like `write_checkpoint`, with no more than two chunks in memory.

    `check` runs before the checkpoint is renamed to its final name. `companions`: the content of companion files by
    name. Raises UserError if that step has a checkpoint already or there is too little space; after any error no file
    of it is left.
    """
    require_absent(directory, step)
    final = directory / checkpoint_name(step)
    temporary = directory / f"{TEMPORARY}{final.name}"
    directory.mkdir(parents=True, exist_ok=True)
    needed, free = sum(array.nbytes for array in arrays.values()), shutil.disk_usage(directory).free
    if needed > free:
        raise UserError(
            f"{directory} has room for {free / 1e6:,.0f} MB, but the checkpoint needs {needed / 1e6:,.0f} MB"
        )
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
        (temporary / ARRAYS).mkdir(parents=True)
        write_companions(temporary, companions or {}, None)
        # Orbax writes its description of the tree; the placeholder arrays are then overwritten.
        orbax_io.write(temporary / ARRAYS, {name: np.zeros(1, np.int8) for name in arrays})
        orbax_io.finish(temporary / ARRAYS)
        sums = {name: list(_write_array(temporary / ARRAYS, name, array)) for name, array in arrays.items()}
        check()
        with ThreadPoolExecutor(SYNC_THREADS) as pool:
            record = {"files": sync_files(temporary, pool), "arrays": sums}
        commit(temporary, final, step, arrays, [record], meta)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _write_array(path: Path, name: str, array: StreamedArray) -> Fingerprint:
    """Write one array and return its fingerprint. A chunk is written while the next one is computed."""
    stored = orbax_io.create_array(path, name, array.shape, array.dtype, array.chunk_shape)
    sums, pending = [Fingerprint()], None
    for start, data in array.make_chunks():
        if pending is not None:
            pending.result()
        index = tuple(slice(begin, begin + size) for begin, size in zip(start, data.shape, strict=True))
        pending = stored[index].write(data, can_reference_source_data_indefinitely=True)
        sums.append(fingerprint(data, start))
    if pending is not None:
        pending.result()
    return functools.reduce(Fingerprint.plus, sums)
