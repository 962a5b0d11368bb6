"""The arrays of a token store, piece by piece: written with digests, and compared with them when they are read.

A piece is one file of an array. What each piece holds is recorded in the store's `pieces.json`, whose digest is in the
manifest. TensorStore notices changed bits and truncated files by CRC-32C; a missing file, and a file that belongs
elsewhere, it takes for data. So a process that reads from a piece for the first time compares the piece's first and
last chunk with the record; `fsck` compares all of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pathways_lite.data.zarr_io import CHUNK, SHARD, create_array, describe_absence, open_array, write_array
from pathways_lite.errors import UserError

PIECES_FILE = "pieces.json"


@dataclass(frozen=True)
class Pieces:
    """The record of an array: digests of the values (little-endian) of each of its files."""

    length: int
    values_per_piece: int
    digests: list[str]  # SHA-256 of all values
    ends: list[str]  # of the first and the last chunk, see `digest_ends`


def digest_values(values: np.ndarray) -> str:
    """Return the SHA-256 of the values in little-endian order."""
    return hashlib.sha256(little_endian(values)).hexdigest()


def digest_ends(first: np.ndarray, last: np.ndarray) -> str:
    """Return 64 bits of the digest of a piece's first and last `CHUNK` values, which may be the same."""
    return hashlib.blake2b(little_endian(first) + little_endian(last), digest_size=8).hexdigest()


def little_endian(values: np.ndarray) -> bytes:
    """Return the bytes of the values, the same on every machine."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


class ArrayWriter:
    """Writes an array of known length from start to end, one whole piece at a time, and hashes its values.

    With `stored=False` the values are hashed only.
    """

    def __init__(self, address: str, path: str, dtype: np.dtype, length: int, *, stored: bool = True) -> None:
        self._array = create_array(address, path, dtype, length) if stored else None
        self._dtype = dtype
        self._written = 0
        self._pending: list[np.ndarray] = []
        self._n_pending = 0
        self._digest = hashlib.sha256()
        self.pieces = Pieces(length, SHARD, [], [])

    def append(self, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values, dtype=self._dtype)
        self._digest.update(little_endian(values))
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
        if self._written != self.pieces.length:
            raise ValueError(f"the array was created for {self.pieces.length} values, but got {self._written}")
        return self._digest.hexdigest()

    def _write(self, values: np.ndarray) -> None:
        if self._array is not None:
            write_array(self._array, self._written, values)
            self.pieces.digests.append(digest_values(values))
            self.pieces.ends.append(digest_ends(values[:CHUNK], values[-CHUNK:]))
        self._written += len(values)


class ArrayReader:
    """Reads an array of a store; raises UserError, with the file's name, for a file that is not what was written.

    Args:
      pieces: the record; None for a store that was written without, of which missing files are noticed all the same.
      length: number of values; None if only the array knows it.
    """

    def __init__(self, address: str, path: str, pieces: Pieces | None, length: int | None) -> None:
        self._address, self._path, self._pieces = address, path, pieces
        try:
            self._array = open_array(address, path, fill_missing=pieces is None)
        except ValueError as error:
            raise UserError(f"{address} is incomplete: its array {path} cannot be opened ({error})") from error
        self.length = int(self._array.shape[0])
        self._size = pieces.values_per_piece if pieces else int(self._array.chunk_layout.write_chunk.shape[0])
        expected = pieces.length if pieces else length
        if expected is not None and self.length != expected:
            raise UserError(
                f"{address} is damaged: {path}/zarr.json describes an array of {self.length} values, not of "
                f"{expected}; copy the file again, or build it again"
            )
        self._checked: set[int] = set()

    def start_reading(self, start: int, stop: int) -> Callable[[], np.ndarray]:
        """Start to read the values `[start, stop)`; return a function that waits for them."""
        for piece in self.piece_numbers(start, stop):
            if piece not in self._checked:
                self._check_ends(piece)
                self._checked.add(piece)
        future = self._array[start:stop].read()
        return lambda: self._result(future, start, stop)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read the values `[start, stop)`."""
        return self.start_reading(start, stop)()

    def read_whole(self) -> np.ndarray:
        """Read all values, and compare all of them with the record."""
        blocks = [self.read_piece(piece) for piece in self.piece_numbers(0, self.length)]
        return np.concatenate(blocks) if blocks else np.asarray(self._array[...].read().result())

    def read_piece(self, piece: int) -> np.ndarray:
        """Read all values of a piece, and compare them with the record."""
        start, stop = self._bounds(piece)
        values = self.read(start, stop)
        if self._pieces is not None and digest_values(values) != self._pieces.digests[piece]:
            raise self._damage(piece, "holds other values than were written")
        return values

    def piece_numbers(self, start: int, stop: int) -> range:
        """Return the numbers of the pieces that hold the values `[start, stop)`."""
        return range(start // self._size, -(-stop // self._size)) if stop > start else range(0)

    def _bounds(self, piece: int) -> tuple[int, int]:
        return piece * self._size, min(self.length, (piece + 1) * self._size)

    def _check_ends(self, piece: int) -> None:
        """Compare the first and the last chunk of a piece with the record. Raises UserError."""
        start, stop = self._bounds(piece)
        if self._pieces is None:
            if absence := describe_absence(self._address, f"{self._path}/c/{piece}"):
                raise self._damage(piece, absence)
            return
        ends = [(start, min(stop, start + CHUNK)), (max(start, stop - CHUNK), stop)]
        futures = [self._array[first:end].read() for first, end in ends]
        first, last = (self._result(future, *bounds) for future, bounds in zip(futures, ends, strict=True))
        if digest_ends(first, last) != self._pieces.ends[piece]:
            raise self._damage(piece, "holds other values than were written")

    def _result(self, future: Any, start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(future.result())
        except ValueError as error:
            for piece in self.piece_numbers(start, stop):
                if absence := describe_absence(self._address, f"{self._path}/c/{piece}"):
                    raise self._damage(piece, absence) from error
            pieces = self.piece_numbers(start, stop)
            raise self._damage(pieces[0], f"cannot be read ({error})", pieces[-1]) from error

    def _damage(self, piece: int, problem: str, last: int | None = None) -> UserError:
        name = f"{self._path}/c/{piece}" + (f" to {last}" if last not in (None, piece) else "")
        return UserError(
            f"{self._address} is damaged: its file {name} {problem}; copy the file again, or build it again"
        )
