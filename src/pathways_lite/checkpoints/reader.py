"""Read slices of a checkpoint's arrays, in any number of processes, and detect damaged arrays by their fingerprints."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.checkpoints import orbax_io
from pathways_lite.checkpoints.arrays import load_array, start_position
from pathways_lite.checkpoints.fingerprint import Fingerprint, fingerprint
from pathways_lite.checkpoints.manifest import ArraySpec, DamagedError, Manifest
from pathways_lite.distributed import coordination

Index = tuple[slice, ...]


class CheckpointReader:
    """Reads the arrays below `path`, and remembers the fingerprint of every slice by its start position."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path, self._manifest = path, manifest
        self._sums: dict[str, dict[str, Fingerprint]] = {}
        self._opened: dict[str, Any] = {}

    def read_array(self, name: str, target: Any) -> Any:
        """Read what this process needs of an array; see `load_array`. Raises what TensorStore and JAX raise."""
        info = self._manifest.arrays[name]
        if not info.nbytes:
            return load_array(info.shape, np.dtype(info.dtype), lambda _: np.empty(info.shape, info.dtype), target)
        stored = self._open(name)
        return load_array(stored.shape, stored.dtype.numpy_dtype, functools.partial(self._read, name, stored), target)

    def read_slice(self, name: str, index: Index) -> np.ndarray:
        """Read a slice of the array into host memory.

        `damaged_arrays` takes all slices together for the whole array, so they must cover it and not overlap. Raises
        DamagedError where it cannot be read.
        """
        try:
            return self._read(name, self._open(name), index)
        except ValueError as error:  # what TensorStore raises
            raise DamagedError(self._path.parent, [f"array {name} cannot be read: {error}"]) from error

    def read_share(self, name: str) -> None:
        """Read this process's share of the array's files, holding no more than one of them in memory."""
        if not self._manifest.arrays[name].nbytes:
            return
        stored = self._open(name)
        for index in itertools.islice(
            _file_slices(stored), coordination.process_index(), None, coordination.process_count()
        ):
            self._read(name, stored, index)

    def damaged_arrays(self) -> list[str]:
        """Return the arrays that, as all processes together have read them, are not what was saved.

        All processes must call it.
        """
        sums = {name: {start: list(both) for start, both in slices.items()} for name, slices in self._sums.items()}
        return list(coordination.gather_and_decide(sums, self._compare))

    def _open(self, name: str) -> Any:
        if name not in self._opened:
            stored = orbax_io.open_array(self._path, name)
            info = self._manifest.arrays[name]
            nbytes = math.prod(stored.shape) * stored.dtype.numpy_dtype.itemsize
            is_key = info.dtype.startswith("key<")  # stored as the keys' data, which have one more axis
            actual = ArraySpec(tuple(stored.shape), str(stored.dtype.numpy_dtype))
            if nbytes != info.nbytes or (not is_key and str(actual) != str(info)):
                raise ValueError(f"it is stored as {actual}, the manifest says {info} of {info.nbytes:,} bytes")
            self._opened[name] = stored
        return self._opened[name]

    def _read(self, name: str, stored: Any, index: Index) -> np.ndarray:
        data = np.asarray(stored[index].read().result())
        start = start_position(index)
        self._sums.setdefault(name, {})[",".join(map(str, start))] = fingerprint(data, start)
        return data

    def _compare(self, gathered: list[dict[str, dict[str, list[int]]]]) -> list[str]:
        """Return the damaged arrays, given every process's fingerprints by array and start position.

        Slices that several processes have read must be equal, and all slices must add up to the array's fingerprint.
        """
        damaged = []
        for name in dict.fromkeys(itertools.chain(*gathered)):
            slices: dict[str, list[int]] = {}
            entries = itertools.chain(*(sums.get(name, {}).items() for sums in gathered))
            equal = all(slices.setdefault(start, both) == both for start, both in entries)
            whole = functools.reduce(Fingerprint.plus, slices.values(), Fingerprint())
            if not equal or str(whole) != self._manifest.arrays[name].fingerprint:
                damaged.append(name)
        return damaged


def _file_slices(stored: Any) -> Iterator[Index]:
    """Yield the slices of a stored array that are in one file each."""
    lengths = stored.chunk_layout.read_chunk.shape or ()  # None where there is no axis
    axes = (
        [slice(start, min(start + length, size)) for start in range(0, size, length)]
        for size, length in zip(stored.shape, lengths, strict=True)
    )
    return itertools.product(*axes)
