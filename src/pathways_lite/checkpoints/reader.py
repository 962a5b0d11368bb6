"""Reading a checkpoint's arrays in parts, in as many processes as there are, and telling whether they are whole."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.checkpoints import orbax_io
from pathways_lite.checkpoints.arrays import place, start_of
from pathways_lite.checkpoints.fingerprint import Fingerprint, fingerprint
from pathways_lite.checkpoints.manifest import Manifest
from pathways_lite.distributed import coordination

Index = tuple[slice, ...]


class CheckpointReader:
    """Reads the arrays below `path`, and remembers the fingerprint of every part by the position where it begins."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path, self._manifest = path, manifest
        self._parts: dict[str, dict[str, Fingerprint]] = {}
        self._stored: dict[str, Any] = {}

    def array(self, name: str, like: Any) -> Any:
        """The array as what `like` is, as far as this process needs it. Raises what TensorStore and JAX raise."""
        info = self._manifest.arrays[name]
        if not info.nbytes:
            return place(info.shape, np.dtype(info.dtype), lambda _: np.empty(info.shape, info.dtype), like)
        stored = self._opened(name)
        return place(stored.shape, stored.dtype.numpy_dtype, functools.partial(self._read, name, stored), like)

    def part(self, name: str, index: Index) -> np.ndarray:
        """A part of the array in host memory. `wrong` takes parts that do not overlap for the whole."""
        return self._read(name, self._opened(name), index)

    def examine(self, name: str) -> None:
        """Look at this process's share of the array's pieces, and hold no more than one of them."""
        if not self._manifest.arrays[name].nbytes:
            return
        stored = self._opened(name)
        for index in itertools.islice(
            _pieces(stored), coordination.process_index(), None, coordination.process_count()
        ):
            self._read(name, stored, index)

    def wrong(self) -> list[str]:
        """Arrays that are not, as all processes together have read them, what was saved. All must ask."""
        parts = {name: {at: list(sums) for at, sums in parts.items()} for name, parts in self._parts.items()}
        return list(coordination.gather_and_decide(parts, self._compare))

    def _opened(self, name: str) -> Any:
        if name not in self._stored:
            self._stored[name] = orbax_io.open_array(self._path, name)
        return self._stored[name]

    def _read(self, name: str, stored: Any, index: Index) -> np.ndarray:
        data = np.asarray(stored[index].read().result())
        start = start_of(index)
        self._parts.setdefault(name, {})[",".join(map(str, start))] = fingerprint(data, start)
        return data

    def _compare(self, found: list[dict[str, dict[str, list[int]]]]) -> list[str]:
        """Parts that several processes have read must be equal, and all parts make up the array."""
        wrong = []
        for name in dict.fromkeys(itertools.chain(*found)):
            parts: dict[str, list[int]] = {}
            read = itertools.chain(*(its.get(name, {}).items() for its in found))
            same = all(parts.setdefault(at, sums) == sums for at, sums in read)
            whole = functools.reduce(Fingerprint.plus, parts.values(), Fingerprint())
            if not same or str(whole) != self._manifest.arrays[name].fingerprint:
                wrong.append(name)
        return wrong


def _pieces(stored: Any) -> Iterator[Index]:
    """The parts of a stored array that lie in one file each."""
    lengths = stored.chunk_layout.read_chunk.shape or ()  # None where there is no axis
    axes = (
        [slice(at, min(at + length, size)) for at in range(0, size, length)]
        for size, length in zip(stored.shape, lengths, strict=True)
    )
    return itertools.product(*axes)
