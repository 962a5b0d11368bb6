"""Growth from checkpoint to checkpoint, block by block: in a fraction of the memory that the model takes.

What is made is the checkpoint of a stage that has not begun, for `Restore(path=...)`: parameters, the ledger so far,
and where the data goes on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite import models
from pathways_lite.checkpoints import Manifest, Reader, Streamed, open_checkpoint, require_whole, write_streamed
from pathways_lite.errors import UserError
from pathways_lite.methods import growth
from pathways_lite.recipe import Adafactor, Grow, Learned, Model, Recipe, ScheduleFree
from pathways_lite.training.load import Loaded
from pathways_lite.training.setup import Setup
from pathways_lite.training.unbegun import meta_after, recipe_after

ROWS_NBYTES = 1 << 26
"""Of an array that is not stacked and only copied, about so much at a time."""


def grow_files(found: Loaded, start: Grow, target: Model, out: Path, report: Callable[[str], None]) -> Path:
    """Grow the checkpoint `found` into a new one below `out`; the dtype stays what it is. Gives its directory.

    Raises UserError where the models do not fit the operator, where it has to be trained with, where `out` has such a
    checkpoint or no room, and DamagedError where the source is not what was saved.
    """
    plan = offline_plan(found, start, target)
    setup = Setup(_recipe(found, start, target), found.setup.index + 1)
    manifest, reader = open_checkpoint(found.path)
    require_parameters(found, manifest)
    key = setup.keys()[0]
    arrays = jax.tree.leaves(models.arrays_of(target))
    streamed = {f"params.{a.name}": _streamed(plan, a, manifest, reader, key, start.noise, report) for a in arrays}

    def check() -> None:
        for array in arrays:
            _read_rest(plan, array, reader)
        require_whole(found.path, reader)

    return write_streamed(out, 0, streamed, meta_after(found, setup), check)


def offline_plan(found: Loaded, start: Grow, target: Model) -> growth.Plan:
    """The plan. Raises UserError where it cannot be carried out without training."""
    kind = start.operator.kind
    if isinstance(start.operator, Learned) or growth.plan_start(start, found.stage.model, target).masked:
        raise UserError(
            f"operator {kind!r} works while the grown model trains; use it as a stage's start: Grow(operator={kind}())"
        )
    if isinstance(found.stage.optimizer, ScheduleFree):
        raise UserError(f"{found.path} was trained schedule-free, and its average is not stored; grow it in a recipe")
    return growth.plan_start(start, found.stage.model, target)


def require_parameters(found: Loaded, manifest: Manifest) -> None:
    """Raise UserError where the checkpoint does not hold the arrays of its recipe's model."""
    for array in jax.tree.leaves(models.arrays_of(found.stage.model)):
        expected = ((found.stage.model.n_layers,) if array.stacked else ()) + array.shape
        info = manifest.arrays.get(f"params.{array.name}")
        if info is None or info.shape != expected:
            shown = "not there" if info is None else str(info.shape)
            raise UserError(f"checkpoint {found.path}: params.{array.name} is {shown}, the recipe says {expected}")


def _streamed(
    plan: growth.Plan,
    array: models.Array,
    manifest: Manifest,
    reader: Reader,
    key: jax.Array,
    noise: float,
    report: Callable[[str], None],
) -> Streamed:
    """One array of the target, made as it is written."""
    dtype = manifest.arrays[f"params.{array.name}"].dtype
    grow = None if growth.copies(plan, array, noise) else jax.jit(functools.partial(_grown, plan, array, key, noise))
    if array.stacked:
        shape = (plan.target.n_layers, *array.shape)
        pieces = functools.partial(_blocks, plan, array, reader, grow)
        piece = (1, *array.shape)
    else:
        shape = array.shape
        rows = max(1, ROWS_NBYTES // max(1, math.prod(shape[1:]) * np.dtype(dtype).itemsize))
        piece = (min(rows, shape[0]), *shape[1:])
        pieces = functools.partial(_rows, array, reader, grow, piece[0])

    def make() -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        report(f"params.{array.name} {list(shape)} {dtype}")
        return pieces()

    return Streamed(shape, dtype, piece, make)


def _grown(
    plan: growth.Plan, array: models.Array, key: jax.Array, noise: float, x: Any, block: Any = None, fresh: Any = None
) -> jax.Array:
    """One block [1, ...], or the whole of what is not stacked."""
    if block is None:
        return growth.grow_array(plan, array, x, key)
    return growth.grow_array(plan, array, x, key, blocks=block[None], fresh=fresh[None], noise=noise)


def _blocks(plan: growth.Plan, array: models.Array, reader: Reader, grow: Any) -> Iterator[tuple[Any, np.ndarray]]:
    for block, (source, fresh) in enumerate(zip(plan.depth.blocks, plan.depth.fresh, strict=True)):
        x = reader.part(f"params.{array.name}", _block_index(array, source))
        if grow is not None:
            x = np.asarray(grow(x, jnp.int32(block), jnp.bool_(fresh)))
        yield (block, *[0] * len(array.shape)), x


def _rows(array: models.Array, reader: Reader, grow: Any, rows: int) -> Iterator[tuple[Any, np.ndarray]]:
    name, rest = f"params.{array.name}", (slice(None),) * (len(array.shape) - 1)
    whole = None if grow is None else np.asarray(grow(reader.part(name, (slice(0, None), *rest))))
    for begin in range(0, array.shape[0], rows):
        part = slice(begin, min(begin + rows, array.shape[0]))
        yield (begin, *[0] * len(rest)), reader.part(name, (part, *rest)) if whole is None else whole[part]


def _read_rest(plan: growth.Plan, array: models.Array, reader: Reader) -> None:
    """Blocks that the growth leaves out, as an array is verified as a whole."""
    if array.stacked:
        for block in set(range(plan.source.n_layers)) - set(plan.depth.blocks):
            reader.part(f"params.{array.name}", _block_index(array, block))


def _block_index(array: models.Array, block: int) -> tuple[slice, ...]:
    return (slice(block, block + 1), *[slice(None)] * len(array.shape))


def _recipe(found: Loaded, start: Grow, target: Model) -> Recipe:
    """The recipe that the grown checkpoint is of."""
    if isinstance(found.stage.optimizer, Adafactor):
        start = start.model_copy(update={"optimizer": "keep"})  # no optimizer is stored; anew it would need a warm-up
    return recipe_after(found, "grown", start=start, model=target)
