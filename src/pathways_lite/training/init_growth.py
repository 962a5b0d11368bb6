"""How a grown stage begins: another stage's checkpoint, read onto this one's mesh, grown there in one jitted function.

What is read lies as it would if the small model were trained on this mesh, and what comes out lies as this stage's
state does. In between an axis that grows is whole on each device, while another one is spread instead.
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
from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import batches
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger, Timeline
from pathways_lite.methods import growth
from pathways_lite.parallel.compiler_options import run_once_options, step_options
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import AdamW, Cosine, Fraction, Grow, LiGO, Recipe, ScheduleFree, Steps
from pathways_lite.training import optimizers
from pathways_lite.training.compile import Interrupted
from pathways_lite.training.load import TrainedModel
from pathways_lite.training.setup import Setup, abstract_batch
from pathways_lite.training.step import TrainState, init_state, make_train_step

# Training the maps of a learned growth operator, before the stage that they begin.


WARMUP = Fraction(n=0.05)


def learning_ledger(setup: Setup) -> Ledger:
    """What training the maps of a learned operator costs: the large model's steps, and applying the maps in each.

    Nothing for any other start. Raises UserError where the operator does not fit the models.
    """
    operator = getattr(setup.stage.start, "operator", None)
    if not isinstance(operator, LiGO) or (plan := setup.growth_plan) is None or not growth.has_maps(plan):
        return Ledger()
    spent = Ledger().after(_course(setup, operator), operator.steps)
    return spent.plus_flops(operator.steps * growth.map_flops(plan))


def _course(setup: Setup, operator: LiGO) -> Timeline:
    return replace(setup.timeline, budget=Steps(n=operator.steps), phases=())


def train_ligo_maps(
    setup: Setup,
    plan: growth.GrowthPlan,
    operator: LiGO,
    params: Any,
    cursor: DataCursor,
    stopped: Callable[[], int],
) -> tuple[growth.Maps, Ledger]:
    """Maps of the source's `params`, trained on the stage's loss and its batches from `cursor` on.

    The ledger says what that cost. Nothing is saved: who is stopped meanwhile
    (`stopped()`, then Interrupted is raised) begins again, and comes to the same.
    """
    stage, layout = setup.stage, setup.layout
    timeline = _course(setup, operator)
    maps_key, step_key = setup.keys()
    whole = layout.sharding(PartitionSpec())
    maps = jax.jit(lambda: growth.initial_maps(plan, maps_key), out_shardings=whole)()
    spent = learning_ledger(setup)
    if not spent.steps:
        return maps, spent
    peak = AdamW(learning_rate=operator.learning_rate, schedule=Cosine(warmup=WARMUP), weight_decay=0.0)
    optimizer = optimizers.build_optimizer(peak, timeline, jax.tree.map(lambda _: ("new", "old"), maps))
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract_state.params)

    def learn(state: TrainState, small: Any, batch: Any, clock: Any) -> TrainState:
        view = lambda maps, _: jax.lax.with_sharding_constraint(growth.apply_maps(plan, maps, small), places)  # noqa: E731
        rate, z_loss = optimizers.learning_rate_fn(peak, timeline), stage.objective.z_loss
        step = make_train_step(
            setup.token_losses, optimizer, learning_rate=rate, z_loss=z_loss, microbatch=stage.microbatch, view=view
        )
        return step(state, batch, clock)[0]

    @functools.cache
    def compiled(sequences: int) -> Any:
        batch = layout.abstract_batch(abstract_batch(sequences, stage.data.seq_len))
        step = jax.jit(learn, donate_argnums=0, out_shardings=whole)
        with jax.sharding.use_abstract_mesh(layout.abstract_mesh):  # as Setup.lower_step
            lowered = step.lower(state, params, batch, timeline.clock(0))
        return lowered.compile(compiler_options=step_options(layout.mesh))

    state = jax.jit(lambda maps: init_state(maps, optimizer, step_key), out_shardings=whole)(maps)
    source = batches(
        setup.store, stage.data, timeline, stage.objective, first_step=0, stop_step=operator.steps,
        first_sequence=cursor.first_sequence, consumed=cursor.consumed, share=layout.batch_shard,
    )  # fmt: skip
    with closing(source):
        for number, batch in enumerate(source):
            if stopped():
                raise Interrupted
            placed = layout.place_batch(batch)
            state = compiled(timeline.sequences_at(number))(state, params, placed, timeline.clock(number))
    return state.params, spent


MOMENTS = {"nu": 2, "second": 2, "z": 0}
"""What an optimizer's copy of the parameters' tree averages, by its name in optax: squares of gradients; parameters.
Everything else averages gradients."""


@dataclass(frozen=True)
class GrownState:
    """The state before the first step."""

    state: TrainState
    cursor: DataCursor  # where the data goes on
    spent: Ledger  # on learning to grow


def require_growth(recipe: Recipe, index: int) -> None:
    """Raise UserError where stage `index` starts with growth that the stage before it does not fit."""
    stage = recipe.stages[index]
    start = stage.start
    if not isinstance(start, Grow):
        return
    try:
        Setup(recipe, index).masks  # noqa: B018
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
    if start.optimizer == "keep" and isinstance(stage.optimizer, ScheduleFree):
        raise UserError(f"stages.{stage.name}.start.optimizer: schedule_free cannot keep its average; use 'grow'")
    if start.optimizer == "grow" and isinstance(start.operator, LiGO):
        raise UserError(f"stages.{stage.name}.start.optimizer: a learned operator has no map of moments; use 'reset'")
    if isinstance(start.operator, LiGO) and stage.data.mixture is not None and len(stage.data.mixture.phases) > 1:
        raise UserError(f"stages.{stage.name}: a learned operator reads ahead of the mixture's clock; use one phase")


def grow_checkpoint(setup: Setup, found: TrainedModel, cursor: DataCursor, stopped: Callable[[], int]) -> GrownState:
    """The stage's state, grown from the checkpoint `found` of the stage before.

    A learned operator is trained first, on the examples from `cursor` on; Interrupted is raised where
    `stopped()` becomes true meanwhile.
    """
    start, plan = setup.stage.start, setup.growth_plan
    assert isinstance(start, Grow)
    assert plan is not None
    like = abstract_on(setup.layout, models.abstract_params(plan.source), models.logical_axes(plan.source))
    moments: Any = ()
    if start.optimizer == "reset":
        params = found.params_like(like)
    else:  # the parameters that were being trained, which those to evaluate need not be
        params = found.trained_params_like(like)
        abstract = jax.eval_shape(found.setup.optimizer.init, like)
        mine: Any = jax.tree.structure(setup.abstract_state.opt_state)
        if jax.tree.structure(abstract) != mine:
            raise UserError(
                f"stages.{setup.stage.name}.start.optimizer={start.optimizer!r}, but the optimizer's options give it "
                "another state; use 'reset', or the options of the stage before"
            )
        moments = restore(found.path, setup.layout.abstract_like_parameters(abstract, like), "opt_state").arrays
    maps, spent = None, Ledger()
    if isinstance(start.operator, LiGO):
        maps, spent = train_ligo_maps(setup, plan, start.operator, params, cursor, stopped)
    make = growing_function(setup).lower(params, maps, moments).compile(compiler_options=run_once_options())
    state = make(params, maps, moments)
    learnt_on = setup.timeline.sequences_before(spent.steps)
    return GrownState(state, replace(cursor, first_sequence=cursor.first_sequence + learnt_on), spent)


def growing_function(setup: Setup) -> Any:
    """The jitted (parameters, maps or None, optimizer's state or ()) of the stage before -> this stage's state."""
    return jax.jit(lambda *given: _grown_state(setup, *given), out_shardings=setup.first_shardings)


def _grown_state(setup: Setup, params: Any, maps: Any, moments: Any) -> TrainState:
    start, plan = setup.stage.start, setup.growth_plan
    assert isinstance(start, Grow)
    assert plan is not None
    key, step_key = setup.keys()
    place = placement_on(setup.layout)
    if maps is None:
        grown = growth.grow_params(plan, params, key, noise=start.noise, place=place)
    else:
        grown = growth.apply_maps(plan, maps, params)
    state = init_state(grown, setup.optimizer, step_key)
    if start.optimizer == "reset":
        return state
    arrays = {array.name: array for array in jax.tree.leaves(models.param_specs(plan.target))}

    def one(path: Any, new: jax.Array, old: jax.Array) -> jax.Array:
        """What becomes of one array of the optimizer's: a moment is called as its parameter at the end of its path."""
        parts = [jax.tree_util.keystr((part,), simple=True) for part in path]
        names = ((parts[at - 1], arrays.get(".".join(parts[at:]))) for at in range(1, len(parts)))
        kind, array = next(((kind, array) for kind, array in names if array is not None), ("", None))
        if start.optimizer == "keep" or array is None:
            return old if old.shape == new.shape else new
        return growth.grow_param(plan, array, old, key, noise=0.0, moment=MOMENTS.get(kind, 1), place=place)

    return state._replace(opt_state=jax.tree.map_with_path(one, state.opt_state, moments))


def abstract_on(layout: Layout, abstract: Any, axes: Any) -> Any:
    """Parameters as the layout spreads them; an array that the mesh does not divide, as a small model's, is whole."""

    def place(leaf: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> jax.ShapeDtypeStruct:
        try:
            spec = layout.parameter_spec(names, leaf.shape)
        except UserError:
            spec = PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.sharding(spec))

    return jax.tree.map(place, abstract, axes)


def placement_on(layout: Layout) -> growth.Placement:
    """Where arrays lie while they grow: one axis may be whole, and its devices spread another one instead.

    They go to an axis that no others spread, if there is one that they divide: then an all-to-all brings them there.
    """
    mesh = layout.mesh
    if mesh is None or not layout.is_spread:
        return growth.unplaced

    def place(x: jax.Array, axes: tuple[str, ...], whole: int | None) -> jax.Array:
        places = [_where_even(layout, axis, size) for axis, size in zip(axes, x.shape, strict=True)]
        if len(axes) - (axes[0] == "layers") < 2:
            places = [()] * x.ndim  # scales of norms
        if whole is not None and (moved := places[whole]):
            places[whole] = ()
            size = lambda at: math.prod(mesh.shape[name] for name in (*places[at], *moved))  # noqa: E731
            others = [at for at in range(x.ndim) if at != whole and x.shape[at] % size(at) == 0]
            if others:
                to = max(others, key=lambda at: (not places[at], x.shape[at]))
                places[to] = (*places[to], *moved)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*places)))

    return place


def _where_even(layout: Layout, axis: str, size: int) -> tuple[str, ...]:
    """The mesh axes that spread a logical axis; none where they do not divide it."""
    names = tuple(name for name in layout.rules[axis] if layout.sizes[name] > 1)
    return () if size % math.prod(layout.sizes[name] for name in names) else names
