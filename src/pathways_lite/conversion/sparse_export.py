"""Export a pruned model from a checkpoint: as a smaller dense model, N:M-compressed, or with its masks beside it.

Arrays are read and written a block at a time; masks are held in memory.
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
    require_undamaged,
    write_streamed,
)
from pathways_lite.conversion.average_export import read_parameter
from pathways_lite.conversion.blocks import Block, stream_blocks
from pathways_lite.conversion.grow_and_merge import meta_from, next_stage
from pathways_lite.conversion.stored_masks import read_masks
from pathways_lite.errors import UserError
from pathways_lite.methods.pruning import input_axis
from pathways_lite.methods.pruning.compact import CompactModel, compact_model, compress_nm, places_per_byte
from pathways_lite.methods.pruning.pruned_params import pack_np
from pathways_lite.recipe import NM, Model, Restore, Unstructured
from pathways_lite.training.load import TrainedModel


@dataclass(frozen=True)
class SparseCheckpoint:
    """The arrays of a pruned model's checkpoint."""

    trained: TrainedModel
    manifest: Manifest
    reader: CheckpointReader
    masks: dict[str, np.ndarray]  # booleans by the names of the pruned arrays

    @classmethod
    def open(cls, trained: TrainedModel) -> SparseCheckpoint:
        """Open a checkpoint and read its masks. Raises DamagedError for one that cannot be read."""
        manifest, reader = open_checkpoint(trained.path)
        return cls(trained, manifest, reader, read_masks(manifest, reader))

    @property
    def model(self) -> Model:
        return self.trained.stage.model

    def array(self, array: models.ParamSpec, block: int | None = None) -> np.ndarray:
        """Read all of an array of the parameters or of their average, or one block [1, ...] of a stacked one."""
        return read_parameter(self.trained, self.reader, array, block)


def convert_sparse(trained: TrainedModel, out: Path, report: Callable[[str], None]) -> Path:
    """Write the pruned model of a checkpoint into a new checkpoint below `out`. Returns its directory.

    Pruned heads, channels or blocks: a smaller dense model, which a stage can start from. N:M: values and positions
    (`compact.compress_nm`) instead of the pruned arrays. Single weights: the parameters, and the masks beside them.

    Raises UserError where the model is dense, where its N:M patterns are incomplete, or where `out` has such a
    checkpoint; DamagedError where the source is not what was saved.
    """
    prune = trained.stage.pruning
    if prune is None:
        raise UserError(
            f"stage {trained.stage.name!r} of {trained.path} prunes nothing; there is nothing sparse to write"
        )
    trained.require_stored_params("train it to the end without it")
    source = SparseCheckpoint.open(trained)
    _require_pruned(trained, source)
    arrays = jax.tree.leaves(models.param_specs(source.model))
    restored = Restore(path=str(trained.path), digest=trained.manifest.digest)
    spec = next_stage(trained, "sparse", start=restored, pruning=prune)
    if isinstance(prune.structure, NM):
        streamed = {
            name: stream
            for array in arrays
            for name, stream in _stream_compressed(source, array, prune.structure).items()
        }
    elif isinstance(prune.structure, Unstructured):
        streamed = {name: stream for array in arrays for name, stream in _stream_masked(source, array).items()}
    else:
        compact = compact_model(source.model, source.masks)
        spec = next_stage(trained, "smaller", start=restored, model=compact.target)
        streamed = {f"params.{array.name}": _stream_compact(source, array, compact) for array in arrays}
    for name, array in streamed.items():
        report(f"{name} {list(array.shape)} {array.dtype}")
    check = functools.partial(require_undamaged, trained.path, source.reader)
    return write_streamed(out, 0, streamed, meta_from(trained, spec), check, trained.files_to_carry())


def _require_pruned(trained: TrainedModel, source: SparseCheckpoint) -> None:
    """Raise UserError where the checkpoint has no masks, or nothing is pruned under them."""
    if not source.masks:
        raise UserError(f"{trained.path} holds no masks: its model is dense, and there is nothing sparse to write")
    if all(mask.all() for mask in source.masks.values()):
        raise UserError(
            f"nothing of {trained.path} is pruned at step {trained.manifest.step}; train the stage further, or use a "
            "later checkpoint"
        )


def _stream_compact(source: SparseCheckpoint, array: models.ParamSpec, compact: CompactModel) -> StreamedArray:
    """Stream one array of the smaller model."""
    dtype = source.manifest.arrays[f"params.{array.name}"].dtype
    if not array.stacked:
        return StreamedArray(
            array.shape, dtype, array.shape, lambda: iter([((0,) * len(array.shape), source.array(array))])
        )
    shape = compact.take_units(array, np.empty(array.shape, np.bool_), 0).shape

    def make() -> Iterator[Block]:
        for block in range(source.model.n_layers):  # also pruned ones: an array is verified as a whole
            x = source.array(array, block)[0]
            if block in compact.blocks:
                position = int(np.searchsorted(compact.blocks, block))
                yield (position, *[0] * len(shape)), compact.take_units(array, x, position)[None]

    return StreamedArray((len(compact.blocks), *shape), dtype, (1, *shape), make)


def _stream_masked(source: SparseCheckpoint, array: models.ParamSpec) -> dict[str, StreamedArray]:
    """Stream one array, and its mask in bits."""
    info = source.manifest.arrays[f"params.{array.name}"]
    arrays = {
        f"params.{array.name}": stream_blocks(array, info.shape, info.dtype, functools.partial(source.array, array))
    }
    if array.name in source.masks:
        bits = pack_np(source.masks[array.name])
        read = lambda block: bits if block is None else bits[block : block + 1]  # noqa: E731
        arrays[f"masks.{array.name}"] = stream_blocks(array, bits.shape, "uint8", read)
    return arrays


def _stream_compressed(source: SparseCheckpoint, array: models.ParamSpec, pattern: NM) -> dict[str, StreamedArray]:
    """Stream one array, or where it is pruned its values and their positions."""
    if array.name not in source.masks:
        return _stream_masked(source, array)
    axis, mask = input_axis(array), source.masks[array.name]
    if (np.moveaxis(mask, axis, -1).reshape(-1, pattern.m).sum(axis=-1) > pattern.n).any():
        raise UserError(
            f"params.{array.name} is not {pattern.n}:{pattern.m} yet; train the stage to the end of its pruning"
        )

    def compress(which: int, block: int | None) -> np.ndarray:
        mask_of_block = mask if block is None else mask[block : block + 1]
        return compress_nm(source.array(array, block), mask_of_block, axis, pattern)[which]

    info = source.manifest.arrays[f"params.{array.name}"]
    shape = lambda size: (*info.shape[:axis], size, *info.shape[axis + 1 :])  # noqa: E731
    n_values = info.shape[axis] * pattern.n // pattern.m
    n_bytes = -(-n_values // places_per_byte(pattern))
    return {
        f"sparse.{array.name}.values": stream_blocks(
            array, shape(n_values), info.dtype, functools.partial(compress, 0)
        ),
        f"sparse.{array.name}.places": stream_blocks(array, shape(n_bytes), "uint8", functools.partial(compress, 1)),
    }
