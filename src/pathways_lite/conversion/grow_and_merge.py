"""Build a checkpoint at step 0 of a new stage from existing checkpoints, without training: by growth or by merging.

Arrays are read, changed and written block by block, in a fraction of the memory that the model takes. The result holds
parameters, the ledger so far, and where the data continues; a stage starts from it by `Restore(path=...)`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
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
    require_undamaged,
    write_streamed,
)
from pathways_lite.conversion.stored_masks import grown_masks, mask_arrays, merged_masks
from pathways_lite.data.order import DataCursor
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.methods import growth, merging
from pathways_lite.recipe import Adafactor, Grow, Ingredient, LiGO, Merge, Model, Prune, Stage, with_plugins_recorded
from pathways_lite.training.companions import FRAME, tokenizer_companions
from pathways_lite.training.init_merging import furthest_cursor, merge_cost, merge_lineage, require_same_model
from pathways_lite.training.initialize import CheckpointState
from pathways_lite.training.load import TrainedModel
from pathways_lite.training.run_record import current_provenance
from pathways_lite.training.stage import StageSpec
from pathways_lite.training.step import TrainState

CHUNK_NBYTES = 1 << 26
"""Size of the chunks in which an array that is not stacked is copied or averaged."""


# ---- growth ----


def grow_offline(
    small: TrainedModel,
    start: Grow,
    target: Model,
    out: Path,
    report: Callable[[str], None],
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Grow the checkpoint `small` into a new one below `out`, in the same dtypes. Returns its directory.

    `tokenizer`: an extension of the model's, which the result carries instead of it.

    Raises UserError where the models do not fit the operator, where the operator has to be trained, where `out` has
    such a checkpoint or the disk is full, and DamagedError where the source is not what was saved.
    """
    plan = plan_offline_growth(small, start, target)
    spec = _grown_spec(small, start, target)
    manifest, reader = open_checkpoint(small.path)
    require_parameters(small, manifest)
    key = spec.keys()[0]
    arrays = jax.tree.leaves(models.param_specs(target))
    streamed = {
        f"params.{array.name}": _stream_grown(plan, array, manifest, reader, key, start.noise, report)
        for array in arrays
    }
    masks = grown_masks(plan, start.noise, manifest, reader)
    spec = _with_masks(spec, small.stage.pruning, mask_arrays(manifest), masks, report)
    streamed |= masks

    def check() -> None:
        for array in arrays:
            _read_unused_blocks(plan, array, reader)
        require_undamaged(small.path, reader)

    meta, files = meta_from(small, spec), small.files_to_carry()
    if tokenizer is not None:  # the held-out text is that of the old one
        frame = {name: content for name, content in files.items() if name == FRAME}
        meta, files = meta | {"tokenizer": tokenizer.fingerprint}, tokenizer_companions(tokenizer) | frame
    return write_streamed(out, 0, streamed, meta, check, files)


def plan_offline_growth(small: TrainedModel, start: Grow, target: Model) -> growth.GrowthPlan:
    """Plan the growth. Raises UserError where it needs training."""
    kind = start.operator.kind
    plan = None if isinstance(start.operator, LiGO) else growth.plan_growth(start, small.stage.model, target)
    if plan is None or plan.masked:
        raise UserError(
            f"operator {kind!r} works while the grown model trains; use it as a stage's start: "
            f"start=Grow(operator={type(start.operator).__name__}())"
        )
    small.require_stored_params("grow it in a recipe, by start=Grow(...)")
    return plan


def _grown_spec(small: TrainedModel, start: Grow, target: Model) -> StageSpec:
    """The stage that the grown checkpoint belongs to."""
    if isinstance(small.stage.optimizer, Adafactor):
        start = start.model_copy(update={"optimizer": "keep"})  # none is stored; a fresh one would need a warm-up
    return next_stage(small, "grown", start=start, model=target)


def require_parameters(model: TrainedModel, manifest: Manifest) -> None:
    """Raise UserError where the checkpoint does not hold the arrays of its recipe's model."""
    for array in jax.tree.leaves(models.param_specs(model.stage.model)):
        expected = ((model.stage.model.n_layers,) if array.stacked else ()) + array.shape
        info = manifest.arrays.get(f"params.{array.name}")
        if info is None or info.shape != expected:
            actual = "not there" if info is None else str(info.shape)
            raise UserError(f"checkpoint {model.path}: params.{array.name} is {actual}, the recipe says {expected}")


def _stream_grown(
    plan: growth.GrowthPlan,
    array: models.ParamSpec,
    manifest: Manifest,
    reader: CheckpointReader,
    key: jax.Array,
    noise: float,
    report: Callable[[str], None],
) -> StreamedArray:
    """Stream one array of the target: it is grown as it is written."""
    dtype = manifest.arrays[f"params.{array.name}"].dtype
    grow = None
    if not growth.is_plain_copy(plan, array, noise):
        grow = jax.jit(functools.partial(_grow, plan, array, key, noise))
    if array.stacked:
        shape = (plan.target.n_layers, *array.shape)
        chunks = functools.partial(_grown_blocks, plan, array, reader, grow)
        chunk_shape = (1, *array.shape)
    else:
        shape = array.shape
        chunk_shape = _chunk_shape(shape, dtype)
        chunks = functools.partial(_grown_rows, array, reader, grow, chunk_shape[0])

    def make() -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        report(f"params.{array.name} {list(shape)} {dtype}")
        return chunks()

    return StreamedArray(shape, dtype, chunk_shape, make)


def _grow(
    plan: growth.GrowthPlan,
    array: models.ParamSpec,
    key: jax.Array,
    noise: float,
    x: Any,
    block: Any = None,
    fresh: Any = None,
) -> jax.Array:
    """Grow one block [1, ...], or the whole of an array that is not stacked."""
    if block is None:
        return growth.grow_blocks(plan, array, x, key)
    return growth.grow_blocks(plan, array, x, key, blocks=block[None], fresh=fresh[None], noise=noise)


def _grown_blocks(
    plan: growth.GrowthPlan, array: models.ParamSpec, reader: CheckpointReader, grow: Any
) -> Iterator[tuple[Any, np.ndarray]]:
    for block, (source, fresh) in enumerate(zip(plan.depth.blocks, plan.depth.fresh, strict=True)):
        x = reader.read_slice(f"params.{array.name}", _block_index(array, source))
        if grow is not None:
            x = np.asarray(grow(x, jnp.int32(block), jnp.bool_(fresh)))
        yield (block, *[0] * len(array.shape)), x


def _grown_rows(
    array: models.ParamSpec, reader: CheckpointReader, grow: Any, rows: int
) -> Iterator[tuple[Any, np.ndarray]]:
    name, rest = f"params.{array.name}", (slice(None),) * (len(array.shape) - 1)
    whole = None if grow is None else np.asarray(grow(reader.read_slice(name, (slice(0, None), *rest))))
    for begin in range(0, array.shape[0], rows):
        index = slice(begin, min(begin + rows, array.shape[0]))
        yield (begin, *[0] * len(rest)), reader.read_slice(name, (index, *rest)) if whole is None else whole[index]


def _read_unused_blocks(plan: growth.GrowthPlan, array: models.ParamSpec, reader: CheckpointReader) -> None:
    """Read the blocks that the growth leaves out: an array is verified as a whole."""
    if array.stacked:
        for block in set(range(plan.source.n_layers)) - set(plan.depth.blocks):
            reader.read_slice(f"params.{array.name}", _block_index(array, block))


def _block_index(array: models.ParamSpec, block: int) -> tuple[slice, ...]:
    return (slice(block, block + 1), *[slice(None)] * len(array.shape))


def _chunk_shape(shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Rows of about `CHUNK_NBYTES` together."""
    rows = max(1, CHUNK_NBYTES // max(1, math.prod(shape[1:]) * np.dtype(dtype).itemsize))
    return (min(rows, shape[0]), *shape[1:])


# ---- merging ----


def merge_offline(
    ingredients: Sequence[TrainedModel], weights: Sequence[float], out: Path, report: Callable[[str], None]
) -> Path:
    """Average checkpoints into a new one below `out`, in the dtypes of the first. Returns its directory.

    Raises UserError where they cannot be averaged, where `out` has such a checkpoint or the disk is full, and
    DamagedError where one is not what was saved.
    """
    first = ingredients[0]
    for model in ingredients:
        require_same_model(model, first.stage.model)
        require_parameters(model, model.manifest)
        model.require_stored_params("merge it in a recipe, by start=Merge(...)")
    readers = [open_checkpoint(model.path)[1] for model in ingredients]
    names = [f"params.{array.name}" for array in jax.tree.leaves(models.param_specs(first.stage.model))]
    normalized = merging.normalized_weights(weights)
    streamed = {name: _stream_merged(name, first, readers, normalized, report) for name in names}
    masks = merged_masks([model.manifest for model in ingredients], readers)
    streamed |= masks

    def check() -> None:
        for model, reader in zip(ingredients, readers, strict=True):
            require_undamaged(model.path, reader)

    named = tuple(
        Ingredient(path=str(model.path), weight=weight, digest=model.manifest.digest)
        for model, weight in zip(ingredients, weights, strict=True)
    )
    spec = next_stage(first, "merged", start=Merge(checkpoints=named))
    pruned = {name for model in ingredients for name in mask_arrays(model.manifest)}
    spec = _with_masks(spec, first.stage.pruning, pruned, masks, report)
    cursor = furthest_cursor(ingredients, spec.stage)
    meta = initial_meta(spec, cursor, merge_cost(ingredients), merge_lineage(ingredients))
    return write_streamed(out, 0, streamed, meta, check, first.files_to_carry())


def _stream_merged(
    name: str,
    first: TrainedModel,
    readers: Sequence[CheckpointReader],
    weights: Sequence[float],
    report: Callable[[str], None],
) -> StreamedArray:
    """Stream the weighted mean of one array, summed in float32."""
    info = first.manifest.arrays[name]
    chunk_shape = _chunk_shape(info.shape, info.dtype)

    def make() -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        report(f"{name} {list(info.shape)} {info.dtype}")
        rest = (slice(None),) * (len(info.shape) - 1)
        for begin in range(0, info.shape[0], chunk_shape[0]):
            index = (slice(begin, min(begin + chunk_shape[0], info.shape[0])), *rest)
            chunks = [reader.read_slice(name, index).astype(np.float32) for reader in readers]
            scaled = (np.float32(weight) * chunk for weight, chunk in zip(weights, chunks, strict=True))
            yield (begin, *[0] * len(rest)), functools.reduce(np.add, scaled).astype(info.dtype)

    return StreamedArray(info.shape, info.dtype, chunk_shape, make)


# ---- a stage at step 0 ----


def next_stage(trained: TrainedModel, name: str, **fields: Any) -> StageSpec:
    """Return a stage after that of `trained`, like it but for `fields`, called `name` or `name`_again.

    Unless `fields` has it, it neither prunes nor weights samples nor averages: nothing of that is in a checkpoint of
    parameters. Nor does it freeze parameters or have groups of them, which another model may not have.
    """
    none = dict.fromkeys(("pruning", "reweighting", "domain_weights", "freeze", "ema"))
    fields = {**none, "optimizer": trained.stage.optimizer.model_copy(update={"groups": None}), **fields}
    stages = trained.spec.recipe.stages[: trained.spec.index + 1]
    while name in {stage.name for stage in stages}:
        name += "_again"
    stage = with_plugins_recorded(Stage.model_validate({**dict(trained.stage), "name": name, **fields}))
    return StageSpec(trained.spec.recipe.model_copy(update={"stages": (*stages, stage)}), len(stages))


def initial_meta(spec: StageSpec, cursor: DataCursor, inherited: Ledger, parent: str) -> dict[str, Any]:
    """Return the JSON beside the arrays of a checkpoint at step 0; see `CheckpointState` for the arguments."""
    state = TrainState(step=0, params=(), opt_state=(), method_state=(), key=())
    return CheckpointState.initial(state, cursor, inherited, parent).to_meta(spec, current_provenance())


def meta_from(trained: TrainedModel, spec: StageSpec) -> dict[str, Any]:
    """Return `initial_meta` of a stage made from one checkpoint; its data continues where that one stopped."""
    return initial_meta(spec, trained.cursor_for(spec.stage), trained.cost, trained.manifest.digest)


def _with_masks(
    spec: StageSpec, prune: Prune | None, pruned: Collection[str], masks: Collection[str], report: Callable[[str], None]
) -> StageSpec:
    """Return the stage with the pruning that `masks` are of; say where the masks of `pruned` arrays are lost."""
    if masks:
        stage = spec.stage.model_copy(update={"pruning": prune})
        return StageSpec(spec.recipe.model_copy(update={"stages": (*spec.recipe.stages[:-1], stage)}), spec.index)
    if pruned:
        report("the masks of pruning are not carried over: what was pruned stays zero, and trains like other weights")
    return spec
