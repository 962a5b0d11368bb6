"""Safetensors files: read as slices of the tensors of all shards together, and written without holding a shard.

Format: the header's length as 8 bytes, little-endian; the header in JSON, padded with spaces to a multiple of 8; the
tensors one after another. The library writes a file only from tensors that are all in memory, so writing is done here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from pathways_lite.atomic_file import replace_atomically, write_text_atomically
from pathways_lite.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}
PIECE_NBYTES = 1 << 24
"""Bytes of a table that are read or written at a time, in float32."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, and what it is."""

    path: Path
    shape: tuple[int, ...]
    dtype: str  # a key of `DTYPES`


class PublishedTensor(Protocol):
    """Where a published tensor is, and its shape."""

    @property
    def path(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


class TensorReader(Protocol):
    """Published files whose tensors are read as float32, whole or by rows."""

    @property
    def tensors(self) -> Mapping[str, PublishedTensor]: ...

    def read(self, name: str, rows: slice | None = None) -> np.ndarray: ...

    def digest(self) -> str: ...


def pieces(shape: tuple[int, ...]) -> list[slice]:
    """Cut a table into rows of at most `PIECE_NBYTES`, at least one row each."""
    step = max(1, min(shape[0], PIECE_NBYTES // max(1, 4 * math.prod(shape[1:]))))
    return [slice(begin, min(begin + step, shape[0])) for begin in range(0, shape[0], step)]


class SafetensorsReader:
    """Reads slices of the tensors of a directory of safetensors files. Files are mapped only while a slice is read."""

    def __init__(self, directory: Path) -> None:
        """Read the headers. Raises UserError where files are missing, damaged, pickles, or hold a name twice."""
        self.files = _files(directory)
        self.tensors: dict[str, StoredTensor] = {}
        for path in self.files:
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - not a dictionary
                    if name in self.tensors:
                        raise UserError(
                            f"{name} is in {self.tensors[name].path.name} and in {path.name} of {directory}; keep the "
                            "files of one model there"
                        )
                    part = file.get_slice(name)
                    self.tensors[name] = StoredTensor(path, tuple(part.get_shape()), part.get_dtype())

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Read a tensor, or some rows of it, as float32. Raises UserError for a dtype that holds no plain numbers."""
        stored = self.tensors[name]
        if stored.dtype not in DTYPES:
            raise UserError(
                f"{name} in {stored.path} is of dtype {stored.dtype}; only {', '.join(DTYPES)} are read, so use the "
                "checkpoint that is not quantized"
            )
        with _opened(stored.path) as file:
            part = file.get_slice(name)
            value = part[:] if rows is None else part[rows]
        return np.asarray(value, np.float32)

    def digest(self) -> str:
        """Return the SHA-256 of the names and contents of all files."""
        return digest_of_files(self.files)


def digest_of_files(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the names and contents of files."""
    lines = []
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(PIECE_NBYTES):
                digest.update(block)
        lines.append(f"{path.name} {digest.hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path} is no whole safetensors file ({error}); download it again") from error


def safetensors_files(directory: Path) -> list[Path]:
    """List the safetensors files of a directory."""
    return sorted(directory.glob("*.safetensors"))


def indexed_files(index: Path) -> list[str] | None:
    """Return the names of the files that an index of shards lists; None where there is no index.

    Raises UserError where it is damaged.
    """
    if not index.is_file():
        return None
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} does not say which files hold the tensors; download it again") from error


def _files(directory: Path) -> list[Path]:
    """List the shards: those that the index names, or all safetensors files."""
    if (names := indexed_files(directory / INDEX)) is not None:
        if missing := [name for name in names if not (directory / name).is_file()]:
            raise UserError(f"{directory} lacks {', '.join(missing)}, which {INDEX} names; download it again")
        return [directory / name for name in names]
    if files := safetensors_files(directory):
        return files
    if pickles := sorted([*directory.glob("*.bin"), *directory.glob("*.pt"), *directory.glob("*.pth")]):
        raise UserError(
            f"{directory} holds {pickles[0].name} and no safetensors files; a pickle can run any program when it is "
            "read, so it is refused: take the safetensors files of the model or, if there are none, let PyTorch read "
            "its tensors alone with --allow-torch"
        )
    raise UserError(f"{directory} has no *.safetensors files; name the directory of a Hugging Face model")


# ---- writing ----


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write: `make` yields its rows in pieces, or all of it, when it is written."""

    shape: tuple[int, ...]
    make: Callable[[], Iterator[np.ndarray]]

    def nbytes(self, dtype: np.dtype) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * dtype.itemsize


def write_safetensors(
    directory: Path, tensors: Mapping[str, NewTensor], dtype: str, shard_bytes: int, report: Callable[[str], None]
) -> list[Path]:
    """Write tensors as one file, or as shards of at most `shard_bytes` with their index. Returns the files.

    Args:
      dtype: "float32" or "bfloat16"; numbers are rounded to the nearest, ties to even.
      report: is told each file when it is written.

    Raises UserError where a number is not finite in `dtype`; OSError where it cannot be written.
    """
    element = {"float32": "F32", "bfloat16": "BF16"}[dtype]
    shards = _shards({name: tensor.nbytes(DTYPES[element]) for name, tensor in tensors.items()}, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with replace_atomically(directory / file) as temporary:
            _write_shard(temporary, {name: tensors[name] for name in names}, element)
        weight_map |= dict.fromkeys(names, file)
        report(f"{directory / file}: {len(names)} tensors")
    if len(shards) > 1:
        total = sum(tensor.nbytes(DTYPES[element]) for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_text_atomically(directory / INDEX, json.dumps(index, indent=2) + "\n")
    return [directory / name for name in dict.fromkeys(weight_map.values())]


def _shards(nbytes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Distribute names, in their order, over shards of at most `limit` bytes, or of one tensor that is larger."""
    shards: list[list[str]] = []
    size = limit + 1
    for name, count in nbytes.items():
        if size + count > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += count
    return shards


def _write_shard(path: Path, tensors: Mapping[str, NewTensor], element: str) -> None:
    dtype, offset = DTYPES[element], 0
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file that does not say so
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes(dtype)
        header[name] = {"dtype": element, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            start = file.tell()
            for piece in tensor.make():
                file.write(np.ascontiguousarray(_rounded(name, piece, dtype)).reshape(-1).view(np.uint8).data)
            if file.tell() - start != tensor.nbytes(dtype):
                raise ValueError(f"{name} has {file.tell() - start} bytes, not {tensor.nbytes(dtype)}")


def _rounded(name: str, piece: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = piece.astype(dtype, copy=False)
    if not np.isfinite(rounded).all():
        raise UserError(f"{name} has numbers that are not finite in {dtype}; the model has diverged, or use float32")
    return rounded
