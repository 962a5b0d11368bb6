"""Averages from checkpoint to checkpoint, a piece of each at a time: in a fraction of the memory that a model takes.

What is made is the checkpoint of a stage that has not begun, for `Restore(path=...)` or an evaluation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.checkpoints import Reader, Streamed, open_checkpoint, require_whole, write_streamed
from pathways_lite.errors import UserError
from pathways_lite.methods import merging
from pathways_lite.recipe import Ingredient, Merge, ScheduleFree
from pathways_lite.training.growing_files import ROWS_NBYTES, require_parameters
from pathways_lite.training.load import Loaded
from pathways_lite.training.merging import cost_of, furthest, lineage_of, require_same_model
from pathways_lite.training.setup import Setup
from pathways_lite.training.unbegun import recipe_after, unbegun_meta


def merge_files(
    ingredients: Sequence[Loaded], weights: Sequence[float], out: Path, report: Callable[[str], None]
) -> Path:
    """The average of checkpoints as a new one below `out`, in the dtypes of the first. Gives its directory.

    Raises UserError where they cannot be averaged, where `out` has such a checkpoint or no room, and DamagedError where
    one is not what was saved.
    """
    first = ingredients[0]
    for found in ingredients:
        require_same_model(found, first.stage.model)
        require_parameters(found, found.manifest)
        if isinstance(found.stage.optimizer, ScheduleFree):
            raise UserError(f"{found.path} was trained schedule-free, and its average is not stored; merge in a recipe")
    readers = [open_checkpoint(found.path)[1] for found in ingredients]
    names = [f"params.{array.name}" for array in jax.tree.leaves(models.arrays_of(first.stage.model))]
    streamed = {name: _streamed(name, first, readers, merging.shares(weights), report) for name in names}

    def check() -> None:
        for found, reader in zip(ingredients, readers, strict=True):
            require_whole(found.path, reader)

    return write_streamed(out, 0, streamed, _meta(ingredients, weights), check)


def _streamed(
    name: str, first: Loaded, readers: Sequence[Reader], weights: Sequence[float], report: Callable[[str], None]
) -> Streamed:
    info = first.manifest.arrays[name]
    rows = max(1, ROWS_NBYTES // max(1, math.prod(info.shape[1:]) * np.dtype(info.dtype).itemsize))
    piece = (min(rows, info.shape[0]), *info.shape[1:])

    def make() -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        report(f"{name} {list(info.shape)} {info.dtype}")
        rest = (slice(None),) * (len(info.shape) - 1)
        for begin in range(0, info.shape[0], piece[0]):
            index = (slice(begin, min(begin + piece[0], info.shape[0])), *rest)
            parts = [reader.part(name, index).astype(np.float32) for reader in readers]
            scaled = (np.float32(weight) * part for weight, part in zip(weights, parts, strict=True))
            yield (begin, *[0] * len(rest)), functools.reduce(np.add, scaled).astype(info.dtype)

    return Streamed(info.shape, info.dtype, piece, make)


def _meta(ingredients: Sequence[Loaded], weights: Sequence[float]) -> dict[str, Any]:
    """What goes with the arrays: a stage after the first checkpoint's, begun with a merge."""
    first = ingredients[0]
    named = [
        Ingredient(path=str(found.path), weight=weight, digest=found.manifest.digest)
        for found, weight in zip(ingredients, weights, strict=True)
    ]
    setup = Setup(recipe_after(first, "merged", start=Merge(of=tuple(named))), first.setup.index + 1)
    return unbegun_meta(setup, furthest(ingredients, setup.stage), cost_of(ingredients), lineage_of(ingredients))
