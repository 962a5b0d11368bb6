"""Write, verify and restore one checkpoint: it is written as a whole or not at all, and never read unverified.

    step_00000100/
        manifest.json    step, metadata, fingerprint of every array, CRC-32 of every file, and its own digest
        arrays/          one zarr directory per array; `orbax.checkpoint.v1.load` opens it
        ...              companion files, such as the tokenizer; see the module `companions`

`restore` and `verify_content` verify three layers, in this order; the module `manifest` says why there are three:

    layer      digest                       computed by                        compared by
    manifest   SHA-256 of the manifest      manifest.Manifest.to_bytes         manifest.Manifest.from_bytes
    files      size and CRC-32 per file     manifest.FileInfo.of               check_files
    arrays     fingerprint per array        fingerprint.fingerprint, of what   require_undamaged, by
                                            reader.CheckpointReader reads      CheckpointReader.damaged_arrays

With many processes, all of them call `write_checkpoint` and `restore`. Each writes and reads its own shards and checks
its share of the files. The primary process collects the results, decides for all, and renames a finished checkpoint.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import jax

from pathways_lite.atomic_file import fsync, fsync_directory
from pathways_lite.checkpoint_names import checkpoint_name, step_of
from pathways_lite.checkpoints import orbax_io
from pathways_lite.checkpoints.arrays import HostArray, array_spec, differences, named_leaves
from pathways_lite.checkpoints.companions import ARRAYS, is_companion, write_companions
from pathways_lite.checkpoints.fingerprint import Fingerprint, fingerprint
from pathways_lite.checkpoints.manifest import FILE_NAME, ArrayInfo, DamagedError, FileInfo, Manifest, open_regular
from pathways_lite.checkpoints.reader import CheckpointReader
from pathways_lite.distributed import coordination
from pathways_lite.errors import UserError

TEMPORARY = ".tmp-"
SYNC_THREADS = 16  # the file system commits concurrent syncs together
_READ_THREADS = 8
_SAVE_CHANNEL = "save"  # a channel of its own, as a save runs in the background


class SizedArray(Protocol):
    """An array that a manifest can list: a `HostArray` or a `StreamedArray`."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class RestoredState:
    """The content of a checkpoint."""

    step: int
    arrays: Any  # a pytree with the structure of `restore`'s target
    meta: dict[str, Any]


def newest_in(directory: Path) -> Path | None:
    """Return the checkpoint of the highest step in a directory, whole or not; None if there is none."""
    steps = [(step, path) for path in directory.glob("step_*") if (step := step_of(path)) is not None]
    return max(steps)[1] if steps else None


def write_checkpoint(
    directory: Path,
    step: int,
    arrays: dict[str, HostArray],
    meta: dict[str, Any],
    prepare: Callable[[], None] = lambda: None,
    fence: Callable[[], None] = lambda: None,
    companions: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a checkpoint under a temporary name, sync it to the disk, and rename it to its final name.

    `prepare` runs in the primary process before anything is written, `fence` before it is renamed: it raises
    LostRunError where another process writes to the directory now. `companions`: the content of companion files by
    name, of the primary process. Raises OSError or ValueError if the checkpoint cannot be written, RemoteProcessError
    if that happened to another process; then no file of it is left.
    """
    final = directory / checkpoint_name(step)
    temporary = directory / f"{TEMPORARY}{final.name}"
    run_on_all = functools.partial(coordination.run_on_all, channel=_SAVE_CHANNEL)

    def run_on_primary(action: Callable[[], object]) -> None:
        run_on_all(lambda: action() if coordination.is_primary() else None)

    records: list[dict[str, Any]] = []  # one per process; filled in the primary process only
    try:
        run_on_primary(prepare)
        run_on_primary(lambda: (temporary / ARRAYS).mkdir(parents=True))
        run_on_primary(lambda: write_companions(temporary, companions or {}, newest_in(directory)))
        # Orbax refuses arrays without elements; their shape and dtype in the manifest describe them completely.
        data = {name: array.data for name, array in arrays.items() if array.data.size}
        run_on_all(lambda: orbax_io.write(temporary / ARRAYS, data))
        run_on_primary(lambda: orbax_io.finish(temporary / ARRAYS))
        run_on_all(lambda: _sync_and_fingerprint(temporary, arrays), records.extend)
        run_on_primary(fence)
        run_on_primary(lambda: commit(temporary, final, step, arrays, records, meta))
    except BaseException:
        if coordination.is_primary():
            fence()  # the temporary directory may be that of another process now
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _sync_and_fingerprint(temporary: Path, arrays: dict[str, HostArray]) -> dict[str, Any]:
    """Sync this process's share of the files; return their entries and the fingerprints of this process's shards."""
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        files = sync_files(temporary, pool)
        sums = pool.map(_fingerprint_shards, arrays.values())
        return {"files": files, "arrays": {name: list(both) for name, both in zip(arrays, sums, strict=True)}}


def sync_files(directory: Path, pool: ThreadPoolExecutor) -> dict[str, Any]:
    """Sync this process's share of the paths below a directory; return the `FileInfo` fields of each file by name."""
    paths = sorted(directory.rglob("*"))[coordination.process_index() :: coordination.process_count()]
    list(pool.map(lambda path: fsync_directory(path) if path.is_dir() else fsync(path), paths))
    files = [path for path in paths if path.is_file()]
    infos = pool.map(FileInfo.of, files)
    return {str(path.relative_to(directory)): asdict(info) for path, info in zip(files, infos, strict=True)}


def _fingerprint_shards(array: HostArray) -> Fingerprint:
    """Return the fingerprint of the shards of an array that this process writes."""
    sums = (fingerprint(shard, start) for start, shard in array.shards())
    return functools.reduce(Fingerprint.plus, sums, Fingerprint())


def commit(
    temporary: Path,
    final: Path,
    step: int,
    arrays: Mapping[str, SizedArray],
    records: list[dict[str, Any]],
    meta: dict[str, Any],
) -> None:
    """Write the manifest and rename the checkpoint to its final name.

    `records` has an entry per process: `files`, what `sync_files` returned, and `arrays`, its fingerprints by name.
    """
    infos = {}
    for name, array in arrays.items():
        whole = functools.reduce(Fingerprint.plus, (record["arrays"][name] for record in records), Fingerprint())
        infos[name] = ArrayInfo(array.shape, array.dtype, array.nbytes, str(whole))
    files = {name: FileInfo(**info) for record in records for name, info in record["files"].items()}
    (temporary / FILE_NAME).write_bytes(Manifest(step, infos, dict(sorted(files.items())), meta).to_bytes())
    # A power cut after the rename must not leave empty files.
    fsync(temporary / FILE_NAME)
    fsync_directory(temporary)
    temporary.rename(final)
    fsync_directory(final.parent)


def discard(path: Path) -> None:
    """Delete a checkpoint, renaming it first: a kill in between never leaves an incomplete one under its name."""
    discarded = path.with_name(f"{TEMPORARY}discarded-{path.name}")
    path.rename(discarded)
    shutil.rmtree(discarded, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed save or deletion left. Only the process that writes to the directory may call it."""
    for path in directory.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def read_manifest(path: Path) -> Manifest:
    """Read the step, the metadata, and the arrays' names, shapes, dtypes and sizes. Raises DamagedError.

    The directory may have any name, but not that of another step.
    """
    try:
        manifest = Manifest.read(path / FILE_NAME)
    except OSError as error:
        raise DamagedError(path, [f"{FILE_NAME} cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise DamagedError(path, [f"{FILE_NAME}: {error}"]) from error
    if step_of(path) not in (None, manifest.step):
        name = checkpoint_name(manifest.step)
        raise DamagedError(path, [f"it is the checkpoint of step {manifest.step:,}; rename it to {name}"])
    return manifest


def check_files(path: Path, manifest: Manifest, *, companions: bool = False) -> list[str]:
    """Check this process's share of the files; return one line for each damaged file, with the array it belongs to.

    Companion files only if asked for: arrays can be restored without them.
    """
    problems = []
    files = [(name, info) for name, info in manifest.files.items() if companions or not is_companion(name)]
    for name, expected in files[coordination.process_index() :: coordination.process_count()]:
        if problem := _file_problem(path / name, expected):
            array = next((part for part in Path(name).parts if part in manifest.arrays), None)
            problems.append(f"{name}{f' (array {array})' if array else ''}: {problem}")
    return problems


def restore(path: Path, target: Any, prefix: str = "") -> RestoredState:
    """Restore into the structure of `target`: a pytree of arrays or `jax.ShapeDtypeStruct`, with shardings if given.

    With `prefix`, e.g. "params", only the arrays below that name are restored, and `target` is that subtree. Raises
    UserError with the differences, before anything is loaded, if names, shapes or dtypes are not exactly those of the
    checkpoint, and DamagedError if the checkpoint is not what was written.
    """
    manifest, leaves = _read_manifest_on_all(path), named_leaves(target, prefix)
    if lines := restore_differences(manifest, target, prefix):
        raise UserError("\n  ".join([f"checkpoint {path} holds other arrays than this model and optimizer:", *lines]))
    _raise_if_damaged(path, lambda: check_files(path, manifest))
    reader, arrays = CheckpointReader(path / ARRAYS, manifest), list[Any]()

    def read() -> None:
        with ThreadPoolExecutor(_READ_THREADS) as pool:  # reading and fingerprinting release the interpreter lock
            arrays.extend(pool.map(reader.read_array, leaves, leaves.values()))

    _read_and_verify(path, reader, read)
    return RestoredState(manifest.step, jax.tree.unflatten(jax.tree.structure(target), arrays), manifest.meta)


def restore_differences(manifest: Manifest, target: Any, prefix: str = "") -> list[str]:
    """Return a line for each array that keeps a checkpoint from being restored into `target`, as `restore` does."""
    below = f"{prefix}." if prefix else ""
    stored = {name: info for name, info in manifest.arrays.items() if name.startswith(below)}
    return differences(stored, {name: array_spec(leaf) for name, leaf in named_leaves(target, prefix).items()})


def verify_content(path: Path, *, companions: bool = True) -> Manifest:
    """Read and verify a whole checkpoint, or its arrays alone; the processes share the work. Raises DamagedError."""
    manifest = _read_manifest_on_all(path)
    _raise_if_damaged(path, lambda: check_files(path, manifest, companions=companions))
    reader = CheckpointReader(path / ARRAYS, manifest)

    def read() -> None:
        for name in manifest.arrays:
            reader.read_share(name)

    _read_and_verify(path, reader, read)
    return manifest


def _read_manifest_on_all(path: Path) -> Manifest:
    """Read the manifest in every process. Raises DamagedError in all of them if any cannot read it."""
    manifests: list[Manifest] = []

    def read() -> Iterable[str]:
        try:
            manifests.append(read_manifest(path))
        except DamagedError as error:
            return error.problems
        return ()

    _raise_if_damaged(path, read)
    return manifests[0]


def _read_and_verify(path: Path, reader: CheckpointReader, read: Callable[[], object]) -> None:
    """Call `read`, which reads arrays through `reader`, and raise DamagedError if they are not what was saved."""

    def find_problems() -> Iterable[str]:
        try:
            read()
        except Exception as error:
            # The files are as they were written, so this is a version that cannot read them, or a failing disk.
            return [f"it cannot be read: {error}"]
        return ()

    _raise_if_damaged(path, find_problems)
    require_undamaged(path, reader)


def require_undamaged(path: Path, reader: CheckpointReader) -> None:
    """Raise DamagedError if the arrays read so far are not what was saved. All processes must call it."""
    if damaged := reader.damaged_arrays():
        raise DamagedError(path, [f"array {name}: its content is not what was saved" for name in damaged])


def _raise_if_damaged(path: Path, find_problems: Callable[[], Iterable[str]]) -> None:
    """Raise DamagedError in all processes if `find_problems` returns a problem in any of them."""
    problems = coordination.gather_and_decide(
        list(find_problems()), lambda lists: list(dict.fromkeys(itertools.chain(*lists)))
    )
    if problems:
        raise DamagedError(path, problems)


def _file_problem(path: Path, expected: FileInfo) -> str | None:
    """Return what is wrong with a file, None if nothing is. One of another size is not read."""
    try:
        with open_regular(path) as file:
            nbytes = os.fstat(file.fileno()).st_size
        actual = FileInfo.of(path) if nbytes == expected.nbytes else FileInfo(nbytes, 0)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if actual.nbytes != expected.nbytes:
        return f"{actual.nbytes:,} bytes instead of {expected.nbytes:,}"
    return None if actual == expected else "its content is not what was written"
