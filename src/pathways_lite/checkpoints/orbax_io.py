"""Named arrays on disk, through Orbax: the only module that imports it.

Orbax's handler for trees writes, in every process the shards that it holds; TensorStore, which is underneath, reads
parts of arrays into host memory, where they are verified before they go to a device. The layers of Orbax above these
make checkpoints atomic too, but their processes wait for each other inside: one whose disk is full would leave the
others waiting for minutes, and saving would launch programs on the devices from our background thread.

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


def write(path: Path, arrays: Mapping[str, np.ndarray | jax.Array]) -> None:
    """Write `arrays` into the empty directory `path`, in every process its part of them.

    NumPy arrays are written by the first process. Waits for no other process. Raises OSError or ValueError when
    the disk does not take them.
    """
    with _only_exceptions():
        _handler().save(epath.Path(path), args=ocp.args.PyTreeSave(_nest(arrays)))


def finish(path: Path) -> None:
    """After every process has written, in the first one: check that they wrote arrays of the same shape."""
    with _only_exceptions():
        _handler().finalize(epath.Path(path))


def create_array(
    path: Path, name: str, shape: Sequence[int], dtype: str, piece: Sequence[int]
) -> tensorstore.TensorStore:
    """An array in files of `piece` elements, in place of one of that name, to be written by `[index].write(...)`."""
    kvstore = {"driver": "file", "path": str((path / name).absolute()) + "/"}
    grid = {"name": "regular", "configuration": {"chunk_shape": [max(1, size) for size in piece]}}
    metadata = {"shape": list(shape), "data_type": dtype, "chunk_grid": grid}
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
    return tensorstore.open(spec, create=True, delete_existing=True).result()


def open_array(path: Path, name: str) -> tensorstore.TensorStore:
    """A stored array, of which `[index].read().result()` gives a part. Raises ValueError where it cannot be read."""
    kvstore = {"driver": "file", "path": str((path / name).absolute()) + "/"}
    return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True, read=True).result()


def _handler() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True, use_compression=False)


def _nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Names split at dots, so that others who open the directory with Orbax find an ordinary tree."""
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
    """Our caller shows a failure as one sentence, from the exception that is raised.

    Orbax besides logs it once per thread with its traceback, and writes that were still under way report, now or later,
    that the event loop they belonged to is closed.
    """

    def not_orbax(record: logging.LogRecord) -> bool:
        return "/orbax/" not in record.pathname

    def not_late(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    log, hook = logging.getLogger("absl"), sys.unraisablehook
    log.addFilter(not_orbax)
    sys.unraisablehook = not_late
    try:
        yield
        sys.unraisablehook = hook
    finally:
        log.removeFilter(not_orbax)
