"""Checkpoints larger than the memory: made and read a piece at a time, by one process."""

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
from pathways_lite.checkpoints.arrays import ArraySpec
from pathways_lite.checkpoints.checkpoint import (
    ARRAYS,
    SYNCS,
    TEMPORARY,
    checkpoint_name,
    commit,
    read_manifest,
    synced_files,
)
from pathways_lite.checkpoints.fingerprint import Fingerprint, fingerprint
from pathways_lite.checkpoints.manifest import Manifest
from pathways_lite.checkpoints.reader import CheckpointReader
from pathways_lite.errors import UserError

Piece = tuple[tuple[int, ...], np.ndarray]
"""A part of an array after the position where it begins."""


@dataclass(frozen=True)
class StreamedArray(ArraySpec):
    """An array whose pieces, all of the shape `piece` but for what is left at the end, are made when asked for."""

    piece: tuple[int, ...]
    make: Callable[[], Iterator[Piece]]

    @property
    def nbytes(self) -> int:
        """Of the whole array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def open_checkpoint(path: Path) -> tuple[Manifest, CheckpointReader]:
    """To read parts of arrays; `require_complete` then says whether they are what was saved. Raises DamagedError."""
    manifest = read_manifest(path)
    return manifest, CheckpointReader(path / ARRAYS, manifest)


def write_streamed(
    directory: Path, step: int, arrays: Mapping[str, StreamedArray], meta: dict[str, Any], check: Callable[[], None]
) -> Path:
    """As `store.write_checkpoint`, holding two pieces at a time; `check` runs before the checkpoint gets its name.

    Raises UserError where there is one of that step or too little space; whatever is raised, nothing is left.
    """
    final = directory / checkpoint_name(step)
    temporary = directory / f"{TEMPORARY}{final.name}"
    if final.exists():
        raise UserError(f"{final} exists; name another directory")
    directory.mkdir(parents=True, exist_ok=True)
    need, free = sum(array.nbytes for array in arrays.values()), shutil.disk_usage(directory).free
    if need > free:
        raise UserError(f"{directory} has room for {free / 1e6:,.0f} MB, and {need / 1e6:,.0f} MB are to be written")
    try:
        (temporary / ARRAYS).mkdir(parents=True)
        # Orbax describes the tree; the arrays are then written over.
        orbax_io.write(temporary / ARRAYS, {name: np.zeros(1, np.int8) for name in arrays})
        orbax_io.finish(temporary / ARRAYS)
        sums = {name: list(_write(temporary / ARRAYS, name, array)) for name, array in arrays.items()}
        check()
        with ThreadPoolExecutor(SYNCS) as pool:
            parts = [{"files": synced_files(temporary, pool), "arrays": sums}]
        commit(temporary, final, step, arrays, parts, meta)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _write(path: Path, name: str, array: StreamedArray) -> Fingerprint:
    """One array, the next piece being made while one is written."""
    stored = orbax_io.create_array(path, name, array.shape, array.dtype, array.piece)
    sums, pending = [Fingerprint()], None
    for start, data in array.make():
        if pending is not None:
            pending.result()
        index = tuple(slice(at, at + size) for at, size in zip(start, data.shape, strict=True))
        pending = stored[index].write(data, can_reference_source_data_indefinitely=True)
        sums.append(fingerprint(data, start))
    if pending is not None:
        pending.result()
    return functools.reduce(Fingerprint.plus, sums)
