"""Export the moving average of a checkpoint's parameters as the parameters of a new checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.checkpoints import CheckpointReader, open_checkpoint, require_undamaged, write_streamed
from pathways_lite.conversion.blocks import stream_blocks
from pathways_lite.conversion.grow_and_merge import meta_from, next_stage, require_parameters
from pathways_lite.conversion.stored_masks import read_masks
from pathways_lite.recipe import Restore
from pathways_lite.training.load import TrainedModel


def convert_average(trained: TrainedModel, out: Path, report: Callable[[str], None]) -> Path:
    """Write the average of `trained`, a model `of_average`, into a new checkpoint below `out`. Returns its directory.

    The parameters are read and written block by block. What is frozen is not in an average and is copied; what is
    pruned is zero. Raises UserError where `out` has such a checkpoint, and DamagedError where the source is not what
    was saved.
    """
    manifest, reader = open_checkpoint(trained.path)
    require_parameters(trained, manifest)
    trained.require_full_growth("take a later checkpoint")
    masks = read_masks(manifest, reader)
    arrays = jax.tree.leaves(models.param_specs(trained.stage.model))
    streamed = {}
    for array in arrays:
        info = manifest.arrays[f"params.{array.name}"]
        read = functools.partial(_read_masked, trained, reader, masks.get(array.name), array)
        streamed[f"params.{array.name}"] = stream_blocks(array, info.shape, info.dtype, read)
        report(f"params.{array.name} {list(info.shape)} {info.dtype}")
    restored = Restore(path=str(trained.path), digest=trained.manifest.digest, weights="average")
    spec = next_stage(trained, "average", start=restored, ema=None)
    check = functools.partial(require_undamaged, trained.path, reader)
    return write_streamed(out, 0, streamed, meta_from(trained, spec), check, trained.files_to_carry())


def _read_masked(
    trained: TrainedModel,
    reader: CheckpointReader,
    mask: np.ndarray | None,
    array: models.ParamSpec,
    block: int | None = None,
) -> np.ndarray:
    values = read_parameter(trained, reader, array, block)
    if mask is None:
        return values
    return np.where(mask if block is None else mask[block : block + 1], values, 0).astype(values.dtype)


def read_parameter(
    trained: TrainedModel, reader: CheckpointReader, array: models.ParamSpec, block: int | None = None
) -> np.ndarray:
    """Read an array of a model's parameters, or of their average, from its checkpoint; or one block [1, ...] of it.

    Without `block` the whole array.
    """
    if block is None and array.stacked:
        blocks = range(trained.stage.model.n_layers)
        return np.concatenate([read_parameter(trained, reader, array, number) for number in blocks])
    name, rest = f"params.{array.name}", tuple(slice(0, size) for size in array.shape)
    n_rows = trained.stage.model.n_layers if array.stacked else 1
    rows = trained.spec.trainable.rows_of(array.name, n_rows) if trained.average else ()
    stored = reader.read_slice(name, rest if block is None else (slice(block, block + 1), *rest))  # also to verify it
    if (block or 0) not in rows:
        return stored
    row = rows.index(block or 0)
    return reader.read_slice(f"average.params.{array.name}", (slice(row, row + 1), *rest) if array.stacked else rest)
