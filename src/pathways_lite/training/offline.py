"""Growth from checkpoint to checkpoint, block by block: in a fraction of the memory that the model takes.

What is made is the checkpoint of a stage that has not begun, for `Restore(path=...)`: parameters, the ledger so far,
and where the data goes on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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
from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.methods import growth, merging
from pathways_lite.recipe import Adafactor, Grow, Ingredient, LiGO, Merge, Model, Recipe, ScheduleFree, Stage
from pathways_lite.training.init_merging import furthest, merge_cost, merge_lineage, require_same_model
from pathways_lite.training.initialize import CheckpointState
from pathways_lite.training.load import TrainedModel
from pathways_lite.training.setup import Setup
from pathways_lite.training.step import TrainState

# Checkpoints that are made of others without training: of a stage that has not begun, after the one they come from.
#
# A stage starts from them by `Restore(path=...)`.


def recipe_after(found: TrainedModel, name: str, **fields: Any) -> Recipe:
    """The stages up to that of `found`, and one like it with other `fields`, called `name` or `name`_again."""
    stages = found.setup.recipe.stages[: found.setup.index + 1]
    while name in {stage.name for stage in stages}:
        name += "_again"
    stage = Stage.model_validate({**dict(found.stage), "name": name, **fields})
    return found.setup.recipe.model_copy(update={"stages": (*stages, stage)})


def initial_meta(setup: Setup, cursor: DataCursor, inherited: Ledger, parent: str) -> dict[str, Any]:
    """What goes with the arrays: nothing of the stage is spent. See `CheckpointState` for the arguments."""
    state = TrainState(step=0, params=(), opt_state=(), method_state=(), key=())
    return CheckpointState.first(state, cursor, inherited, parent).to_meta(setup)


def meta_of_grown(found: TrainedModel, setup: Setup) -> dict[str, Any]:
    """The same for what is made of one checkpoint; the data goes on where it was."""
    return initial_meta(setup, found.cursor_for(setup.stage), found.cost, found.manifest.digest)


ROWS_NBYTES = 1 << 26
"""Of an array that is not stacked and only copied, about so much at a time."""


def grow_offline(found: TrainedModel, start: Grow, target: Model, out: Path, report: Callable[[str], None]) -> Path:
    """Grow the checkpoint `found` into a new one below `out`; the dtype stays what it is. Gives its directory.

    Raises UserError where the models do not fit the operator, where it has to be trained with, where `out` has such a
    checkpoint or no room, and DamagedError where the source is not what was saved.
    """
    plan = plan_offline_growth(found, start, target)
    setup = Setup(_recipe(found, start, target), found.setup.index + 1)
    manifest, reader = open_checkpoint(found.path)
    require_parameters(found, manifest)
    key = setup.keys()[0]
    arrays = jax.tree.leaves(models.param_specs(target))
    streamed = {f"params.{a.name}": _stream_grown(plan, a, manifest, reader, key, start.noise, report) for a in arrays}

    def check() -> None:
        for array in arrays:
            _read_rest(plan, array, reader)
        require_complete(found.path, reader)

    return write_streamed(out, 0, streamed, meta_of_grown(found, setup), check)


def plan_offline_growth(found: TrainedModel, start: Grow, target: Model) -> growth.GrowthPlan:
    """The plan. Raises UserError where it cannot be carried out without training."""
    kind = start.operator.kind
    if isinstance(start.operator, LiGO) or growth.plan_growth(start, found.stage.model, target).masked:
        raise UserError(
            f"operator {kind!r} works while the grown model trains; use it as a stage's start: Grow(operator={kind}())"
        )
    if isinstance(found.stage.optimizer, ScheduleFree):
        raise UserError(f"{found.path} was trained schedule-free, and its average is not stored; grow it in a recipe")
    return growth.plan_growth(start, found.stage.model, target)


def require_parameters(found: TrainedModel, manifest: Manifest) -> None:
    """Raise UserError where the checkpoint does not hold the arrays of its recipe's model."""
    for array in jax.tree.leaves(models.param_specs(found.stage.model)):
        expected = ((found.stage.model.n_layers,) if array.stacked else ()) + array.shape
        info = manifest.arrays.get(f"params.{array.name}")
        if info is None or info.shape != expected:
            shown = "not there" if info is None else str(info.shape)
            raise UserError(f"checkpoint {found.path}: params.{array.name} is {shown}, the recipe says {expected}")


def _stream_grown(
    plan: growth.GrowthPlan,
    array: models.ParamSpec,
    manifest: Manifest,
    reader: CheckpointReader,
    key: jax.Array,
    noise: float,
    report: Callable[[str], None],
) -> StreamedArray:
    """One array of the target, made as it is written."""
    dtype = manifest.arrays[f"params.{array.name}"].dtype
    grow = (
        None
        if growth.is_plain_copy(plan, array, noise)
        else jax.jit(functools.partial(_grown, plan, array, key, noise))
    )
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

    return StreamedArray(shape, dtype, piece, make)


def _grown(
    plan: growth.GrowthPlan,
    array: models.ParamSpec,
    key: jax.Array,
    noise: float,
    x: Any,
    block: Any = None,
    fresh: Any = None,
) -> jax.Array:
    """One block [1, ...], or the whole of what is not stacked."""
    if block is None:
        return growth.grow_blocks(plan, array, x, key)
    return growth.grow_blocks(plan, array, x, key, blocks=block[None], fresh=fresh[None], noise=noise)


def _blocks(
    plan: growth.GrowthPlan, array: models.ParamSpec, reader: CheckpointReader, grow: Any
) -> Iterator[tuple[Any, np.ndarray]]:
    for block, (source, fresh) in enumerate(zip(plan.depth.blocks, plan.depth.fresh, strict=True)):
        x = reader.part(f"params.{array.name}", _block_index(array, source))
        if grow is not None:
            x = np.asarray(grow(x, jnp.int32(block), jnp.bool_(fresh)))
        yield (block, *[0] * len(array.shape)), x


def _rows(array: models.ParamSpec, reader: CheckpointReader, grow: Any, rows: int) -> Iterator[tuple[Any, np.ndarray]]:
    name, rest = f"params.{array.name}", (slice(None),) * (len(array.shape) - 1)
    whole = None if grow is None else np.asarray(grow(reader.part(name, (slice(0, None), *rest))))
    for begin in range(0, array.shape[0], rows):
        part = slice(begin, min(begin + rows, array.shape[0]))
        yield (begin, *[0] * len(rest)), reader.part(name, (part, *rest)) if whole is None else whole[part]


def _read_rest(plan: growth.GrowthPlan, array: models.ParamSpec, reader: CheckpointReader) -> None:
    """Blocks that the growth leaves out, as an array is verified as a whole."""
    if array.stacked:
        for block in set(range(plan.source.n_layers)) - set(plan.depth.blocks):
            reader.part(f"params.{array.name}", _block_index(array, block))


def _block_index(array: models.ParamSpec, block: int) -> tuple[slice, ...]:
    return (slice(block, block + 1), *[slice(None)] * len(array.shape))


def _recipe(found: TrainedModel, start: Grow, target: Model) -> Recipe:
    """The recipe that the grown checkpoint is of."""
    if isinstance(found.stage.optimizer, Adafactor):
        start = start.model_copy(update={"optimizer": "keep"})  # no optimizer is stored; anew it would need a warm-up
    return recipe_after(found, "grown", start=start, model=target)


# Averages from checkpoint to checkpoint, a piece of each at a time: in a fraction of the memory that a model takes.
#
# What is made is the checkpoint of a stage that has not begun, for `Restore(path=...)` or an evaluation.


def merge_offline(
    ingredients: Sequence[TrainedModel], weights: Sequence[float], out: Path, report: Callable[[str], None]
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
    names = [f"params.{array.name}" for array in jax.tree.leaves(models.param_specs(first.stage.model))]
    streamed = {
        name: _stream_merged(name, first, readers, merging.normalized_weights(weights), report) for name in names
    }

    def check() -> None:
        for found, reader in zip(ingredients, readers, strict=True):
            require_complete(found.path, reader)

    return write_streamed(out, 0, streamed, _meta(ingredients, weights), check)


def _stream_merged(
    name: str,
    first: TrainedModel,
    readers: Sequence[CheckpointReader],
    weights: Sequence[float],
    report: Callable[[str], None],
) -> StreamedArray:
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

    return StreamedArray(info.shape, info.dtype, piece, make)


def _meta(ingredients: Sequence[TrainedModel], weights: Sequence[float]) -> dict[str, Any]:
    """What goes with the arrays: a stage after the first checkpoint's, begun with a merge."""
    first = ingredients[0]
    named = [
        Ingredient(path=str(found.path), weight=weight, digest=found.manifest.digest)
        for found, weight in zip(ingredients, weights, strict=True)
    ]
    setup = Setup(recipe_after(first, "merged", start=Merge(of=tuple(named))), first.setup.index + 1)
    return initial_meta(setup, furthest(ingredients, setup.stage), merge_cost(ingredients), merge_lineage(ingredients))
