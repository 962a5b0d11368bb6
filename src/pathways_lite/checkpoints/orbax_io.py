"""Read and write named arrays on disk through Orbax. This is the only module that imports Orbax.

Orbax's handler for trees writes the shards that each process holds; TensorStore, on which it is built, reads slices of
arrays into host memory, where they are verified before they go to a device. Orbax's higher layers make checkpoints
atomic too, but their processes wait for each other inside: one whose disk is full would leave the others waiting for
minutes, and saving would launch programs on the devices from our background thread.

Layout: plain zarr3, one directory per array, one file per shard, not OCDBT, no compression. A damaged file then
names its array, and any zarr reader, `orbax.checkpoint.v1.load` included, opens it. For a 30 MB state (25 arrays;
2 cores, local disk) this writes in 0.1-0.13 s; zstd costs twice the CPU time to save 8 % of the bytes, because float32
parameters hardly compress.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath  # type: ignore[import-untyped]

from pathways_lite.paths import absolute_path


def write(path: Path, arrays: Mapping[str, np.ndarray | jax.Array]) -> None:
    """Write this process's shards of `arrays` into the empty directory `path`.

    NumPy arrays are written by the primary process. Waits for no other process. Raises OSError or ValueError if the
    disk refuses them.
    """
    with _only_exceptions():
        _handler().save(epath.Path(absolute_path(path)), args=ocp.args.PyTreeSave(_nest(arrays)))


def finish(path: Path) -> None:
    """Check that all processes wrote arrays of the same shape: in the primary process, after all have written."""
    with _only_exceptions():
        _handler().finalize(epath.Path(absolute_path(path)))


def create_array(
    path: Path, name: str, shape: Sequence[int], dtype: str, chunk_shape: Sequence[int]
) -> tensorstore.TensorStore:
    """Create an array with one file per chunk, replacing one of that name; `[index].write(...)` writes a slice."""
    kvstore = {"driver": "file", "path": absolute_path(path / name) + "/"}
    grid = {"name": "regular", "configuration": {"chunk_shape": [max(1, size) for size in chunk_shape]}}
    metadata = {"shape": list(shape), "data_type": dtype, "chunk_grid": grid}
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
    return tensorstore.open(spec, create=True, delete_existing=True).result()


def open_array(path: Path, name: str) -> tensorstore.TensorStore:
    """Open a stored array; `[index].read().result()` reads a slice. Raises ValueError if it cannot be read."""
    kvstore = {"driver": "file", "path": absolute_path(path / name) + "/"}
    return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True, read=True).result()


def _handler() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True, use_compression=False)


def _nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Split names at dots into a nested tree, so that other users of Orbax find an ordinary tree."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


@contextlib.contextmanager
def _only_exceptions() -> Iterator[None]:
    """Silence what Orbax prints of a failure besides raising the exception, from which our caller makes one sentence.

    Orbax also logs a failure once per thread with its traceback, and unfinished writes report, now or later, that the
    event loop they belonged to is closed.
    """

    def is_not_orbax(record: logging.LogRecord) -> bool:
        return "/orbax/" not in record.pathname

    def ignore_closed_loop(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    log, hook = logging.getLogger("absl"), sys.unraisablehook
    log.addFilter(is_not_orbax)
    sys.unraisablehook = ignore_closed_loop
    try:
        yield
        sys.unraisablehook = hook
    finally:
        log.removeFilter(is_not_orbax)
