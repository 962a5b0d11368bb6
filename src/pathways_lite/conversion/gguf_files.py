"""GGUF files, llama.cpp's format of models: metadata, and rows of the tensors of all shards together, dequantized.

The package gguf (the extra `gguf`) parses and dequantizes. Tensors are memory-mapped, so that what is read of one takes
memory, and nothing else. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.conversion.safetensors_files import digest_of_files
from pathways_lite.errors import UserError, similar_path
from pathways_lite.extras import install_command

_MAGIC = b"GGUF"
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class GGUFTensor:
    """Where a tensor is, and what it is: `data` are its rows as they are stored, `[rows, ...]`."""

    path: Path
    shape: tuple[int, ...]
    dtype: str  # the name of its quantization, such as Q4_K
    data: np.ndarray = field(repr=False, compare=False)


class GGUFReader:
    """The metadata and tensors of a GGUF file, or of all shards of one whose name ends in -00001-of-0000N.gguf."""

    def __init__(self, path: Path) -> None:
        """Read the headers.

        Raises UserError where the package gguf is not installed, files are damaged, missing, of another kind or
        repeat a tensor, or a tensor's quantization cannot be read.
        """
        self.files = _shards(path)
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, GGUFTensor] = {}
        for file in self.files:
            metadata, tensors = _parse(file)
            self.metadata = {**metadata, **self.metadata}  # the first shard has all of it
            for name, tensor in tensors.items():
                if name in self.tensors:
                    raise UserError(f"{name} is in {self.tensors[name].path.name} and in {file.name} of {file.parent}")
                self.tensors[name] = tensor
        declared = self.metadata.get("split.tensors.count", len(self.tensors))
        if declared != len(self.tensors):
            raise UserError(f"{path} says that its shards hold {declared} tensors, but they hold {len(self.tensors)}")

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Read a tensor, or some rows of it, as float32."""
        import gguf

        stored = self.tensors[name]
        data = stored.data if rows is None else stored.data[rows]
        value = gguf.quants.dequantize(np.ascontiguousarray(data), gguf.GGMLQuantizationType[stored.dtype])
        return np.asarray(value, np.float32)

    def digest(self) -> str:
        """Return the SHA-256 of the names and contents of all files."""
        return digest_of_files(self.files)


def _shards(path: Path) -> list[Path]:
    """List the file, or all shards of its model. Raises UserError where there are not all of them."""
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        example = f", such as {found[0]}" if found else ""
        raise UserError(f"{path} is a directory; name a GGUF file{example}")
    if not path.is_file():
        advice = "nothing is downloaded, so name a GGUF file that is here"
        raise UserError(f"{path}: no such file; {advice}{similar_path(path)}")
    if (match := _SHARD.fullmatch(path.name)) is None:
        return [path]
    count = int(match["count"])
    shards = [path.with_name(f"{match['stem']}-{i + 1:05d}-of-{match['count']}.gguf") for i in range(count)]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise UserError(f"{path.parent} lacks {', '.join(missing)} of the {count} shards of the model; download it too")
    return shards


def _parse(path: Path) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    """Read a file's metadata, and where its tensors are. Raises UserError."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(f"GGUF files are read by the package gguf: {install_command('gguf')}") from error
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise UserError(f"{path} is no GGUF file: it begins with {start!r}, not {_MAGIC!r}")

    class Reader(gguf.GGUFReader):
        def __setattr__(self, name: str, value: Any) -> None:
            # Slices of a plain array take a fifth of the time of a memmap's, of which there is one for every token.
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    try:
        reader = Reader(path)
        metadata = {name: _plain(reader_field) for name, reader_field in reader.fields.items()}
    except Exception as error:  # the package raises whatever its arrays raise on damaged files
        raise UserError(
            f"{path} is no whole GGUF file: its {path.stat().st_size:,} bytes {_damage(error)}; download it again"
        ) from error
    if reader.byte_order != "I":
        raise UserError(f"{path} is of the other byte order than this machine's; convert it with gguf-convert-endian")
    tensors = {}
    for tensor in reader.tensors:
        kind = tensor.tensor_type
        if not _is_readable(kind):
            raise UserError(
                f"{tensor.name} in {path} is of type {kind.name}, which the package gguf cannot turn into numbers; "
                "take the file of the model in F16, BF16, Q8_0, Q4_K or another common type"
            )
        shape = tuple(int(size) for size in reversed(tensor.shape))
        tensors[tensor.name] = GGUFTensor(path, shape, kind.name, tensor.data)
    return metadata, tensors


def _damage(error: Exception) -> str:
    """Say what is wrong with a file that the package cannot parse, in whose words only a version makes sense."""
    if "version" in str(error).lower():
        return f"are of a version that is not known ({str(error).splitlines()[0]})"
    return "end before all that its header announces, or hold something else"


def _is_readable(kind: Any) -> bool:
    """Whether a type of tensor holds numbers that can be dequantized; asked of the package with an empty block."""
    import gguf

    if kind.name in ("F64", "I8", "I16", "I32", "I64"):
        return False
    if kind.name in ("F32", "F16"):
        return True
    block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    try:
        with np.errstate(all="ignore"):
            gguf.quants.dequantize(block, kind)
    except NotImplementedError:
        return False
    return True


def _plain(reader_field: Any) -> Any:
    """Return a metadata value as Python has it; a float32 as the shortest number that it is nearest to."""
    import gguf

    value = reader_field.contents()
    if reader_field.types[-1] == gguf.GGUFValueType.FLOAT32:
        if isinstance(value, list):
            return np.array(value, np.float32)
        return float(str(np.float32(value)))
    return value


def counts_by_type(tensors: Mapping[str, GGUFTensor]) -> str:
    """Return how many tensors are of each type, such as "210 Q4_1, 61 F32"."""
    names = [tensor.dtype for tensor in tensors.values()]
    by_count = sorted(set(names), key=lambda name: (-names.count(name), name))
    return ", ".join(f"{names.count(name)} {name}" for name in by_count)
