"""Training the maps of a learned growth operator, before the stage that they begin."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import jax
from jax.sharding import PartitionSpec

from pathways_lite.data.pipeline import batches
from pathways_lite.ledger import Course, Ledger
from pathways_lite.methods import growth
from pathways_lite.parallel.compiler_options import step_options
from pathways_lite.recipe import AdamW, Cosine, Fraction, Learned, Steps
from pathways_lite.training import optimizers
from pathways_lite.training.compiling import Interrupted
from pathways_lite.training.cursor import Cursor
from pathways_lite.training.setup import Setup, abstract_batch
from pathways_lite.training.state import TrainState, init_state
from pathways_lite.training.step import make_train_step

WARMUP = Fraction(n=0.05)


def learning_ledger(setup: Setup) -> Ledger:
    """What training the maps of a learned operator costs: the large model's steps, and applying the maps in each.

    Nothing for any other start. Raises UserError where the operator does not fit the models.
    """
    operator = getattr(setup.stage.start, "operator", None)
    if not isinstance(operator, Learned) or (plan := setup.growth_plan) is None or not growth.has_maps(plan):
        return Ledger()
    spent = Ledger().after(_course(setup, operator), operator.steps)
    return spent.plus_flops(operator.steps * growth.map_flops(plan))


def _course(setup: Setup, operator: Learned) -> Course:
    return replace(setup.course, budget=Steps(n=operator.steps), phases=())


def learn_maps(
    setup: Setup,
    plan: growth.Plan,
    operator: Learned,
    params: Any,
    cursor: Cursor,
    stopped: Callable[[], int],
) -> tuple[growth.Maps, Ledger]:
    """Maps of the source's `params`, trained on the stage's loss and its batches from `cursor` on.

    The ledger says what that cost. Nothing is saved: who is stopped meanwhile
    (`stopped()`, then Interrupted is raised) begins again, and comes to the same.
    """
    stage, layout = setup.stage, setup.layout
    course = _course(setup, operator)
    maps_key, step_key = setup.keys()
    whole = layout.sharding(PartitionSpec())
    maps = jax.jit(lambda: growth.initial_maps(plan, maps_key), out_shardings=whole)()
    spent = learning_ledger(setup)
    if not spent.steps:
        return maps, spent
    peak = AdamW(learning_rate=operator.learning_rate, schedule=Cosine(warmup=WARMUP), weight_decay=0.0)
    optimizer = optimizers.build(peak, course, jax.tree.map(lambda _: ("new", "old"), maps))
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract_state.params)

    def learn(state: TrainState, small: Any, batch: Any, clock: Any) -> TrainState:
        view = lambda maps, _: jax.lax.with_sharding_constraint(growth.mapped(plan, maps, small), places)  # noqa: E731
        rate, z_loss = optimizers.learning_rate(peak, course), stage.objective.z_loss
        step = make_train_step(
            setup.token_losses, optimizer, learning_rate=rate, z_loss=z_loss, microbatch=stage.microbatch, view=view
        )
        return step(state, batch, clock)[0]

    @functools.cache
    def compiled(sequences: int) -> Any:
        batch = layout.batch(abstract_batch(sequences, stage.data.seq_len))
        step = jax.jit(learn, donate_argnums=0, out_shardings=whole)
        with jax.sharding.use_abstract_mesh(layout.abstract_mesh):  # as Setup.lower_step
            lowered = step.lower(state, params, batch, course.clock(0))
        return lowered.compile(compiler_options=step_options(layout.mesh))

    state = jax.jit(lambda maps: init_state(maps, optimizer, step_key), out_shardings=whole)(maps)
    source = batches(
        setup.store, stage.data, course, stage.objective, first_step=0, stop_step=operator.steps,
        first_sequence=cursor.first_sequence, consumed=cursor.consumed, share=layout.share,
    )  # fmt: skip
    with closing(source):
        for number, batch in enumerate(source):
            if stopped():
                raise Interrupted
            placed = layout.place(batch)
            state = compiled(course.sequences_at(number))(state, params, placed, course.clock(number))
    return state.params, spent
