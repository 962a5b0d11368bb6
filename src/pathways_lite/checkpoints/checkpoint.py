"""One checkpoint on disk: written as a whole or not at all, and never read without being verified.

step_00000100/
    manifest.json    step, metadata, fingerprint of every array, CRC-32 of every file, and its own digest
    arrays/          one zarr directory per array; `orbax.checkpoint.v1.load` opens it

With many processes, all of them call `write_checkpoint` and `restore`. Each writes and reads its own shards, checks its
share of the files, and tells the first what it found; that one decides for all, and gives a checkpoint its name.
"""

from __future__ import annotations

import functools
import itertools
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import jax

from pathways_lite.atomic_file import fsync
from pathways_lite.checkpoints import orbax_io
from pathways_lite.checkpoints.arrays import HostArray, differences, named_leaves, spec
from pathways_lite.checkpoints.fingerprint import Fingerprint, fingerprint
from pathways_lite.checkpoints.manifest import FILE_NAME, ArrayInfo, FileInfo, Manifest
from pathways_lite.checkpoints.reader import CheckpointReader
from pathways_lite.distributed import coordination
from pathways_lite.errors import UserError

TEMPORARY = ".tmp-"
ARRAYS = "arrays"
SYNCS = 16  # at a time: the file system commits them together
_READS = 8  # arrays at a time
_SAVING = "save"  # a channel of its own: a save goes on in the background


class Sized(Protocol):
    """An array as a manifest describes it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def nbytes(self) -> int: ...


class DamagedError(UserError):
    """A checkpoint is not what was written. `problems` has one line for each thing found."""

    def __init__(self, path: Path, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join([f"checkpoint {path} is damaged:", *self.problems]))


@dataclass(frozen=True)
class RestoredState:
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


def write_checkpoint(
    directory: Path,
    step: int,
    arrays: dict[str, HostArray],
    meta: dict[str, Any],
    prepare: Callable[[], None] = lambda: None,
) -> Path:
    """Write a checkpoint under a temporary name, make it durable, and give it its name in one rename.

    `prepare` runs in the first process before anything is written. Raises OSError or ValueError when it cannot be
    written, RemoteProcessError where that happened to another process; nothing is left of it then.
    """
    final = directory / checkpoint_name(step)
    temporary = directory / f"{TEMPORARY}{final.name}"
    together = functools.partial(coordination.run_on_all, channel=_SAVING)
    first = lambda action: together(lambda: action() if coordination.is_primary() else None)  # noqa: E731
    parts: list[dict[str, Any]] = []
    try:
        first(prepare)
        first(lambda: (temporary / ARRAYS).mkdir(parents=True))
        # Orbax refuses arrays without elements; their shape and dtype in the manifest say all about them.
        data = {name: array.data for name, array in arrays.items() if array.data.size}
        together(lambda: orbax_io.write(temporary / ARRAYS, data))
        first(lambda: orbax_io.finish(temporary / ARRAYS))
        together(lambda: _part(temporary, arrays), parts.extend)  # the parts are in the first process alone
        first(lambda: commit(temporary, final, step, arrays, parts, meta))
    except BaseException:
        if coordination.is_primary():
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _part(temporary: Path, arrays: dict[str, HostArray]) -> dict[str, Any]:
    """This process's share of the files, now on the disk, and the fingerprints of what it has written."""
    with ThreadPoolExecutor(SYNCS) as pool:
        files = synced_files(temporary, pool)
        found = pool.map(_fingerprint, arrays.values())
        return {"files": files, "arrays": {name: list(sums) for name, sums in zip(arrays, found, strict=True)}}


def synced_files(directory: Path, pool: ThreadPoolExecutor) -> dict[str, Any]:
    """This process's share of the files below a directory, now on the disk, with what `FileInfo` says of them."""
    written = sorted(directory.rglob("*"))[coordination.process_index() :: coordination.process_count()]
    list(pool.map(fsync, written))
    found = [path for path in written if path.is_file()]
    infos = pool.map(FileInfo.of, found)
    return {str(path.relative_to(directory)): asdict(info) for path, info in zip(found, infos, strict=True)}


def _fingerprint(array: HostArray) -> Fingerprint:
    """Of what this process writes of an array."""
    pieces = (fingerprint(piece, start) for start, piece in array.pieces())
    return functools.reduce(Fingerprint.plus, pieces, Fingerprint())


def commit(
    temporary: Path,
    final: Path,
    step: int,
    arrays: Mapping[str, Sized],
    parts: list[dict[str, Any]],
    meta: dict[str, Any],
) -> None:
    """The manifest of what all processes have written, and the name."""
    infos = {}
    for name, array in arrays.items():
        whole = functools.reduce(Fingerprint.plus, (part["arrays"][name] for part in parts), Fingerprint())
        infos[name] = ArrayInfo(array.shape, array.dtype, array.nbytes, str(whole))
    files = {name: FileInfo(**info) for part in parts for name, info in part["files"].items()}
    (temporary / FILE_NAME).write_bytes(Manifest(step, infos, dict(sorted(files.items())), meta).to_bytes())
    # A power cut after the rename must not leave empty files.
    fsync(temporary / FILE_NAME)
    fsync(temporary)
    temporary.rename(final)
    fsync(final.parent)


def discard(path: Path) -> None:
    """Delete a checkpoint. It vanishes at once: a kill in between never leaves a part of it under its name."""
    grave = path.with_name(f"{TEMPORARY}discarded-{path.name}")
    path.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed save or deletion left. Only for the one process that writes here."""
    for path in directory.glob(f"{TEMPORARY}*"):
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
    """One line for each file, of this process's share, that is not as it was written; with the array it belongs to."""
    problems = []
    for name, expected in list(manifest.files.items())[coordination.process_index() :: coordination.process_count()]:
        found = _found(path / name, expected)
        if found:
            array = next((part for part in Path(name).parts if part in manifest.arrays), None)
            problems.append(f"{name}{f' (array {array})' if array else ''}: {found}")
    return problems


def restore(path: Path, like: Any, prefix: str = "") -> RestoredState:
    """Restore into the structure of `like`: a pytree of arrays or `jax.ShapeDtypeStruct`, with shardings if given.

    With `prefix`, e.g. "params", only the arrays below that name, and `like` is that part of the tree.
    Raises UserError with the difference, before anything is loaded, when names, shapes or dtypes are not
    exactly those of the checkpoint, and DamagedError when the checkpoint is not what was written.
    """
    manifest = _everyones_manifest(path)
    below = f"{prefix}." if prefix else ""
    stored = {name: info for name, info in manifest.arrays.items() if name.startswith(below)}
    leaves = named_leaves(like, prefix)
    if lines := differences(stored, {name: spec(leaf) for name, leaf in leaves.items()}):
        raise UserError("\n  ".join([f"checkpoint {path} holds other arrays than this model and optimizer:", *lines]))
    _refuse(path, lambda: check_files(path, manifest))
    reader, arrays = CheckpointReader(path / ARRAYS, manifest), list[Any]()

    def read() -> None:
        with ThreadPoolExecutor(_READS) as pool:  # reading and adding up leave the interpreter lock to the others
            arrays.extend(pool.map(reader.array, leaves, leaves.values()))

    _verify(path, reader, read)
    return RestoredState(manifest.step, jax.tree.unflatten(jax.tree.structure(like), arrays), manifest.meta)


def verify_arrays(path: Path) -> Manifest:
    """Read all of a checkpoint, the processes sharing the work. Raises DamagedError when it is not what was written."""
    manifest = _everyones_manifest(path)
    _refuse(path, lambda: check_files(path, manifest))
    reader = CheckpointReader(path / ARRAYS, manifest)

    def read() -> None:
        for name in manifest.arrays:
            reader.examine(name)

    _verify(path, reader, read)
    return manifest


def _everyones_manifest(path: Path) -> Manifest:
    """The manifest, if every process can read it. Raises DamagedError."""
    found: list[Manifest] = []

    def read() -> Iterable[str]:
        try:
            found.append(read_manifest(path))
        except DamagedError as error:
            return error.problems
        return ()

    _refuse(path, read)
    return found[0]


def _verify(path: Path, reader: CheckpointReader, read: Callable[[], object]) -> None:
    """`read` arrays, and raise DamagedError where what was read is not what was saved."""

    def problems() -> Iterable[str]:
        try:
            read()
        except Exception as error:
            # The files are as they were written, so this is a version that cannot read them, or a failing disk.
            return [f"it cannot be read: {error}"]
        return ()

    _refuse(path, problems)
    require_complete(path, reader)


def require_complete(path: Path, reader: CheckpointReader) -> None:
    """Raise DamagedError where what has been read of a checkpoint is not what was saved. All processes must ask."""
    if wrong := reader.wrong():
        raise DamagedError(path, [f"array {name}: its content is not what was saved" for name in wrong])


def _refuse(path: Path, look: Callable[[], Iterable[str]]) -> None:
    """Raise DamagedError in all processes when `look` finds a problem in any."""
    found = coordination.gather_and_decide(list(look()), lambda lists: list(dict.fromkeys(itertools.chain(*lists))))
    if found:
        raise DamagedError(path, found)


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
