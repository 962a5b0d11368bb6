"""Initialize a stage by growth: read another stage's checkpoint, and grow it in one jitted function on this mesh.

What is read is sharded as the small model would be on this mesh; the result is sharded as this stage's state is. In
between, an axis that grows is whole on each device, while another axis is sharded instead.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from pathways_lite import models
from pathways_lite.checkpoints import restore
from pathways_lite.checkpoints.finite import join_some, non_finite_arrays
from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger, Timeline
from pathways_lite.methods import growth
from pathways_lite.parallel.compiler_options import run_once_options, step_options
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import AdamW, Cosine, Fraction, Grow, LiGO, Recipe, Steps
from pathways_lite.signals import Interrupted
from pathways_lite.training import optimizers
from pathways_lite.training.components import Components, abstract_batch
from pathways_lite.training.load import TrainedModel
from pathways_lite.training.stage import StageSpec, microbatch_at
from pathways_lite.training.step import TrainState, init_state, make_train_step


@dataclass(frozen=True)
class GrownState:
    """A grown stage's state before its first step."""

    state: TrainState
    cursor: DataCursor  # where its data continues
    spent: Ledger  # on training LiGO's maps


def require_growth(recipe: Recipe, index: int) -> None:
    """Raise UserError where stage `index` starts with growth that does not fit the stage before it."""
    stage = recipe.stages[index]
    start = stage.start
    if not isinstance(start, Grow):
        return
    spec = StageSpec(recipe, index)
    spec.timeline  # noqa: B018  # its errors are of pruning, not of growth
    try:
        spec.growth_plan, spec.growth_masks  # noqa: B018
    except UserError as error:
        raise UserError(f"stages.{stage.name}.start={type(start.operator).__name__}: {error}") from error
    before = recipe.stages[index - 1].optimizer
    if start.optimizer != "reset" and type(before) is not type(stage.optimizer):
        raise UserError(
            f"stages.{stage.name}.start.optimizer={start.optimizer!r}, but the optimizer goes from {before.kind} to "
            f"{stage.optimizer.kind}; use 'reset', or the same optimizer"
        )
    if start.optimizer != "reset" and (stage.pruning or recipe.stages[index - 1].pruning):
        raise UserError(
            f"stages.{stage.name}.start.optimizer={start.optimizer!r}: masks of pruning are not grown; use 'reset'"
        )
    if start.optimizer == "keep" and stage.optimizer.averages_params:
        raise UserError(f"stages.{stage.name}.start.optimizer: schedule_free cannot keep its average; use 'grow'")
    if start.optimizer == "grow" and isinstance(start.operator, LiGO):
        raise UserError(f"stages.{stage.name}.start.optimizer: LiGO has no map of moments; use 'reset'")
    if isinstance(start.operator, LiGO) and stage.data.mixture is not None and len(stage.data.mixture.phases) > 1:
        raise UserError(f"stages.{stage.name}: LiGO reads ahead of the mixture's clock; use one phase")


def require_something_grown(recipe: Recipe, index: int) -> None:
    """Raise UserError where stage `index` starts with growth whose result is the model of the stage before it."""
    stage, plan = recipe.stages[index], StageSpec(recipe, index).growth_plan
    if plan is not None and plan.is_identity:
        raise UserError(
            f"stages.{stage.name}.start=Grow() grows nothing: the model has the n_layers={stage.model.n_layers}, "
            f"d_model={stage.model.d_model}, d_ff={stage.model.d_ff} and vocab_size={stage.model.vocab_size} of stage "
            f"{recipe.stages[index - 1].name!r}; give it larger ones, or use start=Continue()"
        )


def grow_checkpoint(
    components: Components, small: TrainedModel, cursor: DataCursor, stopped: Callable[[], int]
) -> GrownState:
    """Grow the checkpoint `small` of the stage before into the stage's state.

    LiGO's maps are trained first, on the examples from `cursor` on; Interrupted is raised where `stopped()` becomes
    true in that time.
    """
    spec, layout = components.spec, components.layout
    start, plan = spec.stage.start, spec.growth_plan
    assert isinstance(start, Grow)
    assert plan is not None
    abstract_small = abstract_on(layout, models.abstract_params(plan.source), models.logical_axes(plan.source))
    moments: Any = ()
    if start.optimizer == "reset":
        params = small.params_like(abstract_small)
    else:  # the parameters that were being trained, which may differ from those to evaluate
        params = small.trained_params_like(abstract_small)
        abstract_moments = jax.eval_shape(small.components.optimizer.init, abstract_small)
        abstract_moments = layout.abstract_like_parameters(abstract_moments, abstract_small)
        moments = restore(small.path, abstract_moments, "opt_state").arrays
    maps, spent = None, Ledger()
    if isinstance(start.operator, LiGO):
        maps, spent = train_ligo_maps(components, plan, start.operator, params, cursor, stopped)
    grow = grow_function(components).lower(params, maps, moments).compile(compiler_options=run_once_options())
    state = grow(params, maps, moments)
    read = spec.timeline.sequences_before(spent.steps)
    return GrownState(state, replace(cursor, first_sequence=cursor.first_sequence + read), spent)


# ---- in memory ----

QUANTITIES = {
    "nu": growth.Quantity.SQUARED_GRADIENT,
    "second": growth.Quantity.SQUARED_GRADIENT,
    "first": growth.Quantity.UPDATE,  # Adafactor's, in proportion to the RMS of the parameter
    "z": growth.Quantity.PARAMETER,
}
"""What an optimizer's copy of the parameters' tree holds, by its name in the state. Everything else, as AdamW's, Lion's
and Muon's `mu` and SGD's `trace`, holds gradients."""


def grow_function(components: Components) -> Any:
    """Return the jitted function (parameters, maps or None, optimizer's state or ()) of the small model -> state."""
    grow = lambda params, maps, moments: _grow_state(components, params, maps, moments)  # noqa: E731
    return jax.jit(grow, out_shardings=components.initial_shardings)


def _grow_state(components: Components, params: Any, maps: Any, moments: Any) -> TrainState:
    start, plan = components.stage.start, components.spec.growth_plan
    assert isinstance(start, Grow)
    assert plan is not None
    key, step_key = components.spec.keys()
    placement = placement_on(components.layout)
    if maps is None:
        grown = growth.grow_params(plan, params, key, noise=start.noise, place=placement)
    else:
        grown = growth.apply_maps(plan, maps, params)
    state = components.init_state(grown, step_key)
    if start.optimizer == "reset":
        return state
    opt_state = grow_optimizer_state(start, plan, state.opt_state, moments, key, placement)
    return state._replace(opt_state=opt_state)


def grow_optimizer_state(
    start: Grow, plan: growth.GrowthPlan, fresh: Any, old: Any, key: jax.Array, place: growth.Placement
) -> Any:
    """Grow an optimizer's state as `start.optimizer` says; `key` is the parameters'.

    Args:
      fresh: the grown model's state before any update.
      old: the small model's, of the same optimizer.
    """
    specs = {spec.name: spec for spec in jax.tree.leaves(models.param_specs(plan.target))}

    def grow_array(path: Any, new: jax.Array, old: jax.Array) -> jax.Array:
        """Grow one array of the state: the end of a moment's path is its parameter's name."""
        keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
        candidates = ((keys[i - 1], specs.get(".".join(keys[i:]))) for i in range(1, len(keys)))
        kind, spec = next(((kind, spec) for kind, spec in candidates if spec is not None), ("", None))
        if start.optimizer == "keep" or spec is None:
            return old if old.shape == new.shape else new
        quantity = QUANTITIES.get(kind, growth.Quantity.GRADIENT)
        return growth.grow_param(plan, spec, old, key, noise=start.noise, quantity=quantity, place=place)

    return jax.tree.map_with_path(grow_array, fresh, old)


# ---- training LiGO's maps, before the stage that they initialize ----

WARMUP = Fraction(n=0.05)


def ligo_ledger(spec: StageSpec) -> Ledger:
    """Return the cost of training LiGO's maps: steps of the large model, and applying the maps in each.

    It is zero for every other start. Raises UserError where the operator does not fit the models.
    """
    operator = getattr(spec.stage.start, "operator", None)
    if not isinstance(operator, LiGO) or (plan := spec.growth_plan) is None or not growth.has_maps(plan):
        return Ledger()
    spent = Ledger().after(_ligo_timeline(spec, operator), operator.steps)
    return spent.plus_flops(operator.steps * growth.map_flops(plan))


def _ligo_timeline(spec: StageSpec, operator: LiGO) -> Timeline:
    return replace(spec.timeline, budget=Steps(n=operator.steps), phases=())


def train_ligo_maps(
    components: Components,
    plan: growth.GrowthPlan,
    operator: LiGO,
    params: Any,
    cursor: DataCursor,
    stopped: Callable[[], int],
) -> tuple[growth.Maps, Ledger]:
    """Train maps of the small model's `params` on the stage's loss and its batches from `cursor` on.

    The ledger is their cost. Nothing is saved: where training is stopped (`stopped()` is true and Interrupted is
    raised), it starts again the next time, with the same result.
    """
    spec, layout = components.spec, components.layout
    timeline = _ligo_timeline(spec, operator)
    maps_key, step_key = spec.keys()
    replicated = layout.sharding(PartitionSpec())
    maps = jax.jit(lambda: growth.initial_maps(plan, maps_key), out_shardings=replicated)()
    spent = ligo_ledger(spec)
    if not spent.steps:
        return maps, spent
    adamw = AdamW(learning_rate=operator.learning_rate, schedule=Cosine(warmup=WARMUP), weight_decay=0.0)
    optimizer = optimizers.build_optimizer(adamw, timeline, jax.tree.map(lambda _: ("new", "old"), maps))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, components.abstract_state.params)

    def step(state: TrainState, small: Any, batch: Any, clock: Any) -> tuple[TrainState, jax.Array]:
        def apply_maps(maps: growth.Maps, _: Any) -> Any:
            return jax.lax.with_sharding_constraint(growth.apply_maps(plan, maps, small), shardings)

        train_step = make_train_step(
            components.loss_fn,
            optimizer,
            learning_rate=optimizers.learning_rate_fn(adamw, timeline),
            z_loss=spec.stage.objective.z_loss,
            microbatch=microbatch_at(spec.stage, batch.tokens.shape[1]),
            reparameterize=apply_maps,
        )
        state, metrics = train_step(state, batch, clock)
        return state, metrics["ok"]

    @functools.cache
    def compiled(sequences: int, seq_len: int) -> Any:
        batch = layout.abstract_batch(abstract_batch(sequences, seq_len))
        jitted = jax.jit(step, donate_argnums=0, out_shardings=replicated)
        with jax.sharding.use_abstract_mesh(layout.abstract_mesh):  # as in Components.lower_step
            lowered = jitted.lower(state, params, batch, timeline.clock(0))
        return lowered.compile(compiler_options=step_options(layout.mesh))

    state = jax.jit(lambda maps: init_state(maps, optimizer, step_key), out_shardings=replicated)(maps)
    cursor = replace(cursor, skips=())
    updates = []  # 1 for each that was applied, 0 for those dropped as not finite
    with closing(spec.stream(cursor, shard=layout.batch_shard, timeline=timeline).read(0, operator.steps)) as batches:
        for number, batch in enumerate(batches):
            if stopped():
                raise Interrupted
            placed = layout.place_batch(batch)
            step_at = compiled(timeline.sequences_at(number), timeline.seq_len_at(number))
            state, ok = step_at(state, params, placed, timeline.clock(number))
            updates.append(ok)
    problem = None if sum(jax.device_get(updates)) else "no update was finite"
    if damaged := non_finite_arrays(state.params):
        problem = f"not finite after training: {join_some(damaged)}"
    if problem is not None:
        raise UserError(
            f"stages.{spec.stage.name}.start: LiGO's maps cannot be learned ({problem}); lower "
            f"operator.learning_rate={operator.learning_rate:g}, or check the model that is grown"
        )
    return state.params, spent


# ---- shardings while arrays grow ----


def abstract_on(layout: Layout, abstract: Any, axes: Any) -> Any:
    """Shard abstract parameters; an array that the mesh does not divide, as of a small model, is replicated."""

    def place(leaf: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> jax.ShapeDtypeStruct:
        try:
            spec = layout.parameter_spec(names, leaf.shape)
        except UserError:
            spec = PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.sharding(spec))

    return jax.tree.map(place, abstract, axes)


def placement_on(layout: Layout) -> growth.Placement:
    """Return the placement of arrays while they grow: one axis may be whole, and its devices shard another one instead.

    They go to an axis that no other devices shard, if there is one that they divide: then an all-to-all moves the data.
    """
    mesh = layout.mesh
    if mesh is None or not layout.is_sharded:
        return growth.unplaced

    def place(x: jax.Array, axes: tuple[str, ...], whole: int | None) -> jax.Array:
        entries = [
            layout.shard_if_divisible(layout.mesh_axes(axis), size) for axis, size in zip(axes, x.shape, strict=True)
        ]
        if len(axes) - (axes[0] == "layers") < 2:
            entries = [()] * x.ndim  # scales of norms
        if whole is not None and (moved := entries[whole]):
            entries[whole] = ()
            size = lambda axis: math.prod(mesh.shape[name] for name in (*entries[axis], *moved))  # noqa: E731
            others = [axis for axis in range(x.ndim) if axis != whole and x.shape[axis] % size(axis) == 0]
            if others:
                target = max(others, key=lambda axis: (not entries[axis], x.shape[axis]))
                entries[target] = (*entries[target], *moved)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*entries)))

    return place
