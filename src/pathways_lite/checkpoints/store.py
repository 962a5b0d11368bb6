"""One checkpoint on disk: written as a whole or not at all, and never read without being verified.

step_00000100/
    manifest.json    step, metadata, digests of every array and file, and of itself
    orbax/arrays/    one zarr directory per array
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pathways_lite.checkpoints import orbax_io
from pathways_lite.checkpoints.arrays import HostArray, differences, named_leaves, place, spec
from pathways_lite.checkpoints.manifest import FILE_NAME, ArrayInfo, FileInfo, Manifest, array_digest
from pathways_lite.errors import UserError

_TEMPORARY = ".tmp-"
_ORBAX = "orbax"
_SYNCS = 16  # at a time: the file system commits them together


class DamagedError(UserError):
    """A checkpoint is not what was written. `problems` has one line for each thing found."""

    def __init__(self, path: Path, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join([f"checkpoint {path} is damaged:", *self.problems]))


@dataclass(frozen=True)
class Restored:
    """What a checkpoint gave back."""

    step: int
    arrays: Any  # the pytree asked for
    meta: dict[str, Any]


def checkpoint_name(step: int) -> str:
    """The name of a step's directory."""
    return f"step_{step:08d}"


def step_of(path: Path) -> int | None:
    """The step of a checkpoint's directory, None for anything else."""
    match = re.fullmatch(r"step_(\d{8,})", path.name)
    return int(match[1]) if match else None


def write_checkpoint(directory: Path, step: int, arrays: dict[str, HostArray], meta: dict[str, Any]) -> Path:
    """Write a checkpoint under a temporary name, make it durable, and give it its name in one rename.

    Raises OSError or ValueError when it cannot be written; nothing is left of it then.
    """
    final = directory / checkpoint_name(step)
    temporary = directory / f"{_TEMPORARY}{final.name}"
    try:
        temporary.mkdir(parents=True)
        # Orbax refuses arrays without elements; their shape and dtype in the manifest say all about them.
        orbax_io.write(temporary / _ORBAX, {name: array.data for name, array in arrays.items() if array.data.size})
        written = sorted(temporary.rglob("*"))
        with ThreadPoolExecutor(_SYNCS) as pool:
            list(pool.map(_sync, written))
        files = {str(path.relative_to(temporary)): FileInfo.of(path) for path in written if path.is_file()}
        infos = {name: _describe(name, array) for name, array in arrays.items()}
        (temporary / FILE_NAME).write_bytes(Manifest(step, infos, files, meta).to_bytes())
        _sync(temporary / FILE_NAME)
        _sync(temporary)
        temporary.rename(final)
        _sync(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def discard(path: Path) -> None:
    """Delete a checkpoint. It vanishes at once: a kill in between never leaves a part of it under its name."""
    grave = path.with_name(f"{_TEMPORARY}discarded-{path.name}")
    path.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed save or deletion left. Only for the one process that writes here."""
    for path in directory.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def read_manifest(path: Path) -> Manifest:
    """Step, metadata, and the arrays' names, shapes, dtypes and sizes. Raises DamagedError."""
    try:
        return Manifest.from_bytes((path / FILE_NAME).read_bytes())
    except OSError as error:
        raise DamagedError(path, [f"{FILE_NAME} cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise DamagedError(path, [f"{FILE_NAME}: {error}"]) from error


def check_files(path: Path, manifest: Manifest) -> list[str]:
    """One line for each file that is not as it was written; the array is named where the file belongs to one."""
    problems = []
    for name, expected in manifest.files.items():
        found = _found(path / name, expected)
        if found:
            array = next((part for part in Path(name).parts if part in manifest.arrays), None)
            problems.append(f"{name}{f' (array {array})' if array else ''}: {found}")
    return problems


def read_arrays(path: Path, manifest: Manifest, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays `wanted`, by name; typed keys as their data. Files are verified before they are decoded.

    Raises DamagedError when a file, or the content of an array, is not what was saved.
    """
    if problems := check_files(path, manifest):
        raise DamagedError(path, problems)
    infos = {name: manifest.arrays[name] for name in wanted}
    stored = [name for name, info in manifest.arrays.items() if info.nbytes]
    try:
        arrays = orbax_io.read(path / _ORBAX, stored, [name for name, info in infos.items() if info.nbytes])
    except Exception as error:
        # The files are as Orbax wrote them, so this is a version that cannot read them, or a failing disk.
        raise DamagedError(path, [f"Orbax cannot read it: {error}"]) from error
    arrays |= {name: np.empty(info.shape, info.dtype) for name, info in infos.items() if not info.nbytes}
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter lock to the other threads
        digests = pool.map(lambda name: array_digest(name, infos[name].shape, infos[name].dtype, arrays[name]), infos)
        wrong = [name for name, digest in zip(infos, digests, strict=True) if digest != infos[name].sha256]
    if wrong:
        raise DamagedError(path, [f"array {name}: its content is not what was saved" for name in wrong])
    return arrays


def restore(path: Path, like: Any, prefix: str = "") -> Restored:
    """Restore into the structure of `like`: a pytree of arrays or `jax.ShapeDtypeStruct`, with shardings if given.

    With `prefix`, e.g. "params", only the arrays below that name, and `like` is that part of the tree.
    Raises UserError with the difference, before anything is loaded, when names, shapes or dtypes are not
    exactly those of the checkpoint, and DamagedError when the checkpoint is not what was written.
    """
    manifest = read_manifest(path)
    below = f"{prefix}." if prefix else ""
    stored = {name: info for name, info in manifest.arrays.items() if name.startswith(below)}
    leaves = named_leaves(like, prefix)
    if lines := differences(stored, {name: spec(leaf) for name, leaf in leaves.items()}):
        raise UserError("\n  ".join([f"checkpoint {path} holds other arrays than this model and optimizer:", *lines]))
    arrays = read_arrays(path, manifest, leaves)
    placed = [place(arrays[name], leaf) for name, leaf in leaves.items()]
    return Restored(manifest.step, jax.tree.unflatten(jax.tree.structure(like), placed), manifest.meta)


def _describe(name: str, array: HostArray) -> ArrayInfo:
    digest = array_digest(name, array.shape, array.dtype, array.data)
    return ArrayInfo(array.shape, array.dtype, array.data.nbytes, digest)


def _found(path: Path, expected: FileInfo) -> str | None:
    """What is wrong with a file, if anything."""
    try:
        found = FileInfo.of(path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found.nbytes != expected.nbytes:
        return f"{found.nbytes:,} bytes instead of {expected.nbytes:,}"
    return None if found == expected else "its content is not what was written"


def _sync(path: Path) -> None:
    """A file or a folder onto the disk: a power cut after the rename must not leave empty files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
