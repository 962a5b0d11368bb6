"""What a stage needs to run, put together once from its recipe; no state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.data.pipeline import Batches
from pathways_lite.data.store import Store, open_store
from pathways_lite.evaluation.bits import Evaluator, HeldOutLoss
from pathways_lite.evaluation.denoisers import denoiser_losses
from pathways_lite.ledger import Timeline
from pathways_lite.methods import growth, pruning
from pathways_lite.models.accounting import parameter_count
from pathways_lite.parallel.compiler_options import run_once_options, step_options
from pathways_lite.parallel.mesh import device_mesh
from pathways_lite.parallel.sharding import FULL_BATCH, Layout
from pathways_lite.recipe import Grow, MaskedGrowth, Recipe, Stage, stage_identity
from pathways_lite.training import optimizers, reweighting
from pathways_lite.training.sample_weights import MethodState, SampleWeights
from pathways_lite.training.step import TrainState, TrainStep, init_state, make_train_step


@dataclass(frozen=True)
class Setup:
    """One stage of a resolved recipe, on its mesh of `devices` (None: all that JAX has; of one process or of many)."""

    recipe: Recipe
    index: int
    devices: Sequence[jax.Device] | None = None

    @property
    def stage(self) -> Stage:
        return self.recipe.stages[self.index]

    def on_corpus(self, corpus: str, tokens: int | None = None) -> Setup:
        """The same stage evaluated on another corpus, or on another number of held-out tokens per domain."""
        data = self.stage.data.model_copy(update={"corpus": corpus, "fingerprint": None})
        evaluation = self.stage.evaluation
        evaluation = evaluation if tokens is None else evaluation.model_copy(update={"tokens": tokens})
        stage = self.stage.model_copy(update={"data": data, "evaluation": evaluation})
        return Setup(self.recipe.model_copy(update={"stages": (stage,)}), 0, self.devices)

    @functools.cached_property
    def identity(self) -> str:
        return stage_identity(self.recipe, self.index)

    @functools.cached_property
    def store(self) -> Store:
        return open_store(self.stage.data.corpus)

    @property
    def corpus_tokens(self) -> int:
        """Training tokens that there are."""
        return sum(self.store.tokens(domain) for domain in self.store.domains)

    @functools.cached_property
    def epochs(self) -> dict[str, float]:
        """How often the stage reads each domain."""
        return Batches(self.store, self.stage.data, self.timeline, self.stage.objective).epochs()

    @functools.cached_property
    def timeline(self) -> Timeline:
        return stage_timeline(self.stage)

    @functools.cached_property
    def layout(self) -> Layout:
        """What lies where. Raises UserError where the recipe's mesh does not fit the devices."""
        return Layout(device_mesh(self.stage.mesh, self.devices))

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        return optimizers.build_stage_optimizer(self.stage, self.timeline)

    @functools.cached_property
    def growth_plan(self) -> growth.GrowthPlan | None:
        """How the stage's model is made of the one before, where it is. Raises UserError where it cannot be."""
        start = self.stage.start
        if not isinstance(start, Grow):
            return None
        return growth.plan_growth(start, self.recipe.stages[self.index - 1].model, self.stage.model)

    @functools.cached_property
    def masks(self) -> growth.GrowthMasks | None:
        """Those of random growth. Raises UserError where the stage ends before they are all 1."""
        if self.growth_plan is None or not self.growth_plan.masked:
            return None
        operator = self.stage.start.operator  # type: ignore[union-attr]
        assert isinstance(operator, MaskedGrowth)
        return growth.build_masks(self.growth_plan, operator.ramp, self.timeline)

    def evaluated_params(self, opt_state: Any, params: Any, step: int) -> Any:
        """The parameters to evaluate and to keep: schedule-free's average, under the masks of growth at `step`."""
        params = optimizers.evaluation_params(opt_state, params)
        return params if self.masks is None else jax.jit(self.masks)(params, self.timeline.clock(step))

    def token_losses(self, params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the train step differentiates: loss and log Z of every position, with dropout by `key`."""
        return models.token_losses(self.stage.model, params, batch, dropout_key=key, layout=self.layout)

    @functools.cached_property
    def sample_weights(self) -> SampleWeights | None:
        """How samples are weighed, where they are."""
        return reweighting.build_sample_weights(self)

    @functools.cached_property
    def step_function(self) -> TrainStep:
        """The pure train step, not compiled."""
        stage = self.stage
        return make_train_step(
            self.token_losses,
            self.optimizer,
            learning_rate=optimizers.learning_rate_fn(stage.optimizer, self.timeline),
            z_loss=stage.objective.z_loss,
            microbatch=stage.microbatch,
            view=self.masks,
            sample_weights=self.sample_weights,
        )

    def fresh_state(self) -> TrainState:
        """Random parameters and an untouched optimizer, from the recipe's seed and the stage's place."""
        make = jax.jit(self._fresh_state, out_shardings=self.first_shardings)
        return make.lower().compile(compiler_options=run_once_options())()

    def state_with(self, params: Any) -> TrainState:
        """An untouched optimizer for given parameters; the stage's own key."""
        make = jax.jit(lambda p: init_state(p, self.optimizer, self.keys()[1]), out_shardings=self.first_shardings)
        return make(params)

    def first_memory(self) -> Any:
        """What weighing samples remembers before the first step, whole on every device; () where it is nothing."""
        memory = reweighting.initial_memory(self)
        whole = self.layout.sharding(PartitionSpec())
        return jax.jit(lambda: jax.tree.map(jnp.asarray, memory), out_shardings=whole)()

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state; allocates nothing."""
        model, layout = self.stage.model, self.layout
        params = layout.abstract_parameters(models.abstract_params(model), models.logical_axes(model))
        state = layout.abstract_like_parameters(jax.eval_shape(self._fresh_state), params)
        memory, theirs = (
            layout.abstract_like_parameters(jax.eval_shape(lambda: reweighting.initial_memory(self)), params),
            (),
        )
        if (reference := reweighting.reference_model(self.stage)) is not None:
            theirs = layout.abstract_parameters(models.abstract_params(reference), models.logical_axes(reference))
        method = MethodState(memory, theirs)
        return state._replace(method_state=method if jax.tree.leaves(method) else ())

    def compile_step(self, sequences: int) -> Any:
        """The train step compiled for batches of `sequences`; its state argument is donated."""
        return self.lower_step(sequences).compile(compiler_options=step_options(self.layout.mesh))

    def lower_step(self, sequences: int) -> jax.stages.Lowered:
        """The train step for batches of `sequences` on the stage's mesh, whose devices need not exist here."""
        batch = self.layout.abstract_batch(abstract_batch(sequences, self.stage.data.seq_len))
        clock = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.timeline.clock(0))
        shardings = (self.shardings, self.layout.sharding(PartitionSpec()))
        step = jax.jit(self.step_function, donate_argnums=0, out_shardings=shardings)
        with jax.sharding.use_abstract_mesh(self.layout.abstract_mesh):  # kernels ask it which chip they are for
            return step.lower(self.abstract_state, batch, clock)

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Scores held-out documents in batches of about the training batch's size."""
        config, layout = self.stage.model, self.layout
        rows = min(self.timeline.sequences_at(0), self.stage.microbatch or 64)
        parts = layout.size("batch")

        def token_losses(params: Any, batch: Batch) -> jax.Array:
            return layout.constrain(models.token_losses(config, params, batch, layout=layout)[0], None, None)

        return Evaluator(
            token_losses,
            rows=-(-rows // parts) * parts,
            seq_len=self.stage.data.seq_len,
            place=functools.partial(layout.place_batch, share=FULL_BATCH),
        )

    @functools.cached_property
    def held_out(self) -> dict[str, list[tuple[np.ndarray, int]]]:
        """Per domain, held-out documents as (tokens, bytes of text); empty domains are left out."""
        budget = self.stage.evaluation.tokens
        documents = {
            domain: [(document.tokens, document.text_bytes) for document in self.store.held_out(domain, budget)]
            for domain in self.store.domains
        }
        return {domain: found for domain, found in documents.items() if found}

    def evaluate(
        self, params: Any, *, between_batches: Callable[[int, int], None] | None = None
    ) -> dict[str, HeldOutLoss]:
        """Held-out result of every domain."""
        return {
            domain: self.evaluator(params, documents, between_batches=between_batches)
            for domain, documents in self.held_out.items()
        }

    def evaluate_denoisers(
        self, params: Any, *, between_batches: Callable[[int, int], None] | None = None
    ) -> dict[str, dict[str, float]]:
        """Held-out loss of every denoiser of the objective: on as much text, of all domains, as is evaluated of one."""
        documents = []
        for held_out in self.held_out.values():
            left = self.stage.evaluation.tokens // len(self.held_out)
            for tokens, _ in held_out:
                documents.append(tokens[:left])
                left -= len(documents[-1])
        return denoiser_losses(
            self.evaluator,
            params,
            self.stage.objective,
            documents,
            eod=self.store.eod,
            boundaries=self.stage.data.boundaries,
            seed=self.stage.data.shuffle_seed,
            between_batches=between_batches,
        )

    def keys(self) -> jax.Array:
        """Random keys of the initialisation and of the steps."""
        return jax.random.split(jax.random.fold_in(jax.random.key(self.recipe.seed), self.index))

    @functools.cached_property
    def shardings(self) -> TrainState:
        """Of the state's arrays."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)

    @property
    def first_shardings(self) -> TrainState:
        """Of a state that has no method's arrays yet."""
        return self.shardings._replace(method_state=())

    def _fresh_state(self) -> TrainState:
        params_key, step_key = self.keys()
        return init_state(models.init(self.stage.model, params_key), self.optimizer, step_key)


def stage_timeline(stage: Stage) -> Timeline:
    """The stage's way in steps, tokens and FLOPs, those that its method takes or saves included."""
    timeline = Timeline(
        ramp=stage.ramp,
        seq_len=stage.data.seq_len,
        flops_per_token=reweighting.flops_per_token_with_weights(stage),
        active_parameters=parameter_count(stage.model),
        budget=stage.budget,
    )
    if stage.pruning is None:
        return timeline
    groups = pruning.prune_groups(stage.pruning, stage.model, stage.data.seq_len)
    return replace(timeline, phases=pruning.density_phases(stage.pruning, groups, timeline))


def abstract_batch(sequences: int, length: int) -> Batch:
    """Shapes and dtypes of a batch."""
    of = lambda dtype: jax.ShapeDtypeStruct((sequences, length), dtype)  # noqa: E731
    return Batch(
        tokens=of(np.int32),
        targets=of(np.int32),
        loss_weights=of(np.float32),
        positions=of(np.int32),
        spans=Spans(of(np.int32), of(np.int32)),
        domain=jax.ShapeDtypeStruct((sequences,), np.int32),
        sample_id=jax.ShapeDtypeStruct((sequences, 2), np.uint32),
    )
