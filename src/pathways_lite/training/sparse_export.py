"""What is left of a pruned model, from checkpoint to checkpoint: smaller, compressed, or with its masks beside it.

Arrays are read and written a block at a time; masks are held as they are stored, a bit for each weight, and unpacked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.checkpoints import (
    CheckpointReader,
    Manifest,
    StreamedArray,
    open_checkpoint,
    require_complete,
    write_streamed,
)
from pathways_lite.errors import UserError
from pathways_lite.methods.pruning import input_axis
from pathways_lite.methods.pruning.compact import CompactModel, compact_model, compress_nm, places_per_byte
from pathways_lite.methods.pruning.pruned_params import pack_np, unpack_np
from pathways_lite.recipe import NM, Model, Recipe, Restore, ScheduleFree, Unstructured
from pathways_lite.training.load import TrainedModel
from pathways_lite.training.offline import meta_of_grown, recipe_after
from pathways_lite.training.setup import Setup

Piece = tuple[tuple[int, ...], np.ndarray]
MASKS = ("opt_state.masks.", "masks.")
"""Where masks are: in a checkpoint of training, in one that `convert_sparse` has written."""


@dataclass(frozen=True)
class SparseCheckpoint:
    """The arrays of a pruned model's checkpoint."""

    model: Model
    manifest: Manifest
    reader: CheckpointReader
    masks: dict[str, np.ndarray]  # booleans by the names of the arrays that are pruned

    @classmethod
    def of(cls, found: TrainedModel) -> SparseCheckpoint:
        """Raises UserError where nothing of the model is pruned, DamagedError for a checkpoint that cannot be read."""
        manifest, reader = open_checkpoint(found.path)
        return cls(found.stage.model, manifest, reader, read_masks(manifest, reader))

    def array(self, array: models.ParamSpec, block: int | None = None) -> np.ndarray:
        """All of an array of the parameters, or a block of a stacked one [1, ...]."""
        return self.reader.part(f"params.{array.name}", _index(array, block))


def read_masks(manifest: Manifest, reader: CheckpointReader) -> dict[str, np.ndarray]:
    """The masks of a checkpoint by the names of the pruned arrays; none of a dense model's."""
    masks = {}
    for stored, info in manifest.arrays.items():
        for prefix in MASKS:
            if stored.startswith(prefix):
                name = stored.removeprefix(prefix)
                bits = reader.part(stored, tuple(map(slice, info.shape)))
                masks[name] = unpack_np(bits, manifest.arrays[f"params.{name}"].shape[-1])
    return masks


def convert_sparse(found: TrainedModel, out: Path, report: Callable[[str], None]) -> Path:
    """Write what is left of the pruned model in the checkpoint `found` into a new one below `out`. Gives its directory.

    Pruned heads, channels or blocks: a smaller dense model, which a stage can begin with. N:M: values and places
    (`compact.compress_nm`) instead of the arrays that are pruned. Single weights: the parameters, and the masks
    beside them.
    Raises UserError where the model is dense, where it has patterns that are not whole yet, or where `out` has such a
    checkpoint; DamagedError where the source is not what was saved.
    """
    prune = found.stage.pruning
    if prune is None:
        raise UserError(f"stage {found.stage.name!r} of {found.path} prunes nothing; there is nothing sparse to write")
    if isinstance(found.stage.optimizer, ScheduleFree):
        raise UserError(f"{found.path} was trained schedule-free, and its average is not stored")
    source = SparseCheckpoint.of(found)
    arrays = jax.tree.leaves(models.param_specs(source.model))
    setup = found.setup
    if isinstance(prune.structure, NM):
        streamed = {name: part for array in arrays for name, part in _patterned(source, array, prune.structure).items()}
    elif isinstance(prune.structure, Unstructured):
        streamed = {name: part for array in arrays for name, part in _masked(source, array).items()}
    else:
        left = compact_model(source.model, source.masks)
        setup = Setup(_smaller(found, left.target), found.setup.index + 1)
        streamed = {f"params.{array.name}": _shrunk(source, array, left) for array in arrays}
    for name, array in streamed.items():
        report(f"{name} {list(array.shape)} {array.dtype}")
    check = functools.partial(require_complete, found.path, source.reader)
    return write_streamed(out, 0, streamed, meta_of_grown(found, setup), check)


def _shrunk(source: SparseCheckpoint, array: models.ParamSpec, left: CompactModel) -> StreamedArray:
    """One array of the smaller model."""
    dtype = source.manifest.arrays[f"params.{array.name}"].dtype
    if not array.stacked:
        return StreamedArray(
            array.shape, dtype, array.shape, lambda: iter([((0,) * len(array.shape), source.array(array))])
        )
    shape = left.taken(array, np.empty(array.shape, np.bool_), 0).shape

    def make() -> Iterator[Piece]:
        for block in range(source.model.n_layers):  # also those that are left out: an array is verified as a whole
            x = source.array(array, block)[0]
            if block in left.blocks:
                at = int(np.searchsorted(left.blocks, block))
                yield (at, *[0] * len(shape)), left.taken(array, x, at)[None]

    return StreamedArray((len(left.blocks), *shape), dtype, (1, *shape), make)


def _masked(source: SparseCheckpoint, array: models.ParamSpec) -> dict[str, StreamedArray]:
    """One array, and its mask in bits."""
    info = source.manifest.arrays[f"params.{array.name}"]
    arrays = {f"params.{array.name}": _blockwise(array, info.shape, info.dtype, functools.partial(source.array, array))}
    if array.name in source.masks:
        bits = pack_np(source.masks[array.name])
        part = lambda block: bits if block is None else bits[block : block + 1]  # noqa: E731
        arrays[f"masks.{array.name}"] = _blockwise(array, bits.shape, "uint8", part)
    return arrays


def _patterned(source: SparseCheckpoint, array: models.ParamSpec, pattern: NM) -> dict[str, StreamedArray]:
    """One array, or its values and their places where it is pruned."""
    if array.name not in source.masks:
        return _masked(source, array)
    axis, mask = input_axis(array), source.masks[array.name]
    if (np.moveaxis(mask, axis, -1).reshape(-1, pattern.m).sum(axis=-1) > pattern.n).any():
        raise UserError(
            f"params.{array.name} is not {pattern.n}:{pattern.m} yet; train the stage to the end of its pruning"
        )

    def part(which: int, block: int | None) -> np.ndarray:
        here = mask if block is None else mask[block : block + 1]
        return compress_nm(source.array(array, block), here, axis, pattern)[which]

    info = source.manifest.arrays[f"params.{array.name}"]
    shape = lambda size: (*info.shape[:axis], size, *info.shape[axis + 1 :])  # noqa: E731
    values = info.shape[axis] * pattern.n // pattern.m
    bytes_ = -(-values // places_per_byte(pattern))
    return {
        f"sparse.{array.name}.values": _blockwise(array, shape(values), info.dtype, functools.partial(part, 0)),
        f"sparse.{array.name}.places": _blockwise(array, shape(bytes_), "uint8", functools.partial(part, 1)),
    }


def _blockwise(
    array: models.ParamSpec, shape: tuple[int, ...], dtype: str, part: Callable[[int | None], np.ndarray]
) -> StreamedArray:
    """An array that is written as it is stacked, a block at a time."""

    def make() -> Iterator[Piece]:
        rest = (0,) * (len(shape) - 1)
        if not array.stacked:
            yield (0, *rest), part(None)
            return
        for block in range(shape[0]):
            yield (block, *rest), part(block)

    return StreamedArray(shape, dtype, (1, *shape[1:]) if array.stacked else shape, make)


def _index(array: models.ParamSpec, block: int | None) -> tuple[slice, ...]:
    rest = tuple(slice(0, size) for size in array.shape)
    if not array.stacked:
        return rest
    return (slice(0, None) if block is None else slice(block, block + 1), *rest)


def _smaller(found: TrainedModel, target: Model) -> Recipe:
    """The recipe that the smaller model's checkpoint is of."""
    start = Restore(path=str(found.path), digest=found.manifest.digest)
    return recipe_after(found, "smaller", start=start, model=target, pruning=None)
