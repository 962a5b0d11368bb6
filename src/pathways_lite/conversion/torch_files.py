"""Pickled PyTorch checkpoints (`pytorch_model.bin`): read as slices of the tensors of all shards together.

A pickle can run any program when it is read. So these files are read only when a user asks for it, and only through
`torch.load(weights_only=True)`, which builds tensors and plain containers alone, and of a version of PyTorch for which
that holds: before 2.6 it could be circumvented (CVE-2025-32434).
"""

from __future__ import annotations

import importlib
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.conversion.safetensors_files import StoredTensor, digest_of_files, indexed_files
from pathways_lite.errors import UserError

INDEX = "pytorch_model.bin.index.json"
SINGLE = "pytorch_model.bin"
OLDEST_TORCH = (2, 6)
DTYPES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16"}
"""The names of `safetensors_files.DTYPES` by those of PyTorch."""


class TorchReader:
    """Reads slices of the tensors of a directory of PyTorch checkpoints, as `SafetensorsReader` does.

    Files are mapped into memory, so that a slice is read when it is asked for. Those of before PyTorch 1.6 cannot be
    mapped: of them one file is in memory at a time.
    """

    def __init__(self, directory: Path) -> None:
        """Read the names and shapes. Raises UserError where PyTorch or files are missing, or one is no such file."""
        self._torch = _import_torch()
        self.files = _files(directory)
        self._mapped: dict[Path, dict[str, Any]] = {}
        self._in_memory: dict[Path, dict[str, Any]] = {}  # at most one
        self.tensors: dict[str, StoredTensor] = {}
        for path in self.files:
            for name, tensor in self._load(path).items():
                if name in self.tensors:
                    raise UserError(
                        f"{name} is in {self.tensors[name].path.name} and in {path.name} of {directory}; keep the "
                        "files of one model there"
                    )
                dtype = DTYPES.get(str(tensor.dtype), str(tensor.dtype))
                self.tensors[name] = StoredTensor(path, tuple(tensor.shape), dtype)

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Read a tensor, or some rows of it, as float32. Raises UserError for a dtype that holds no plain numbers."""
        stored = self.tensors[name]
        if stored.dtype not in DTYPES.values():
            raise UserError(
                f"{name} in {stored.path} is of dtype {stored.dtype}; only {', '.join(DTYPES)} are read, so use the "
                "checkpoint that is not quantized"
            )
        tensor = self._load(stored.path)[name]
        part = tensor if rows is None else tensor[rows]
        return np.array(part.detach().to(self._torch.float32).numpy(), np.float32)  # a copy, not the mapped file

    def digest(self) -> str:
        """Return the SHA-256 of the names and contents of all files."""
        return digest_of_files(self.files)

    def _load(self, path: Path) -> dict[str, Any]:
        """Return the tensors of a file by name."""
        for loaded in (self._mapped, self._in_memory):
            if path in loaded:
                return loaded[path]
        content, is_mapped = self._load_tensors(path)
        if is_mapped:
            self._mapped[path] = content
        else:
            self._in_memory = {path: content}
        return content

    def _load_tensors(self, path: Path) -> tuple[dict[str, Any], bool]:
        """Return the tensors of a file by name, and whether they are mapped."""
        self._in_memory.clear()  # room for the next one, which may not be mapped
        is_mapped = True
        safely: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
        try:
            try:
                content = self._torch.load(path, mmap=True, **safely)
            except RuntimeError:  # of before 1.6, or damaged
                is_mapped = False
                content = self._torch.load(path, **safely)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{path} is not read by torch.load(weights_only=True) ({reason}): it is damaged, or holds more than "
                "tensors; download it again, or take the safetensors files of the model"
            ) from error
        tensor = self._torch.Tensor
        if not isinstance(content, dict) or not all(isinstance(value, tensor) for value in content.values()):
            raise UserError(
                f"{path} holds more than the tensors of a model by their names; save its state_dict() alone, or take "
                "the safetensors files of the model"
            )
        return content, is_mapped


def _import_torch() -> Any:
    """Import PyTorch. Raises UserError where it is not installed, or too old to be safe."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            "--allow-torch reads pickles with PyTorch, which is not installed; install it with: uv pip install torch"
        ) from error
    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_TORCH:
        raise UserError(
            f"PyTorch {torch.__version__} can be made to run programs by pickles even with weights_only=True "
            "(CVE-2025-32434); install 2.6 or newer: uv pip install --upgrade torch"
        )
    return torch


def _files(directory: Path) -> list[Path]:
    """List the shards: those that the index names, or the one file."""
    listed = indexed_files(directory / INDEX)
    names = [SINGLE] if listed is None else listed
    if missing := [name for name in names if not (directory / name).is_file()]:
        why = "a model of PyTorch has" if listed is None else f"{INDEX} names"
        raise UserError(f"{directory} lacks {', '.join(missing)}, which {why}")
    return [directory / name for name in names]
