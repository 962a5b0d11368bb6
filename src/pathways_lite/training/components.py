"""What a stage runs with: its mesh, model, optimizer and train step, on the devices of this program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.data.held_out_text import HeldOutSource
from pathways_lite.evaluation.downstream import TaskEvaluator
from pathways_lite.evaluation.held_out import StageEvaluator
from pathways_lite.ledger import Timeline
from pathways_lite.methods.pruning import apply_masks
from pathways_lite.parallel.compiler_options import run_once_options, step_options
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Stage
from pathways_lite.training import optimizers
from pathways_lite.training.average import Average
from pathways_lite.training.build_sample_weights import build_sample_weights, initial_memory
from pathways_lite.training.gradient import make_gradient_fn
from pathways_lite.training.sample_weights import MethodState, SampleWeights
from pathways_lite.training.stage import StageSpec, microbatch_at, reference_model
from pathways_lite.training.stage_mesh import stage_mesh
from pathways_lite.training.stage_tasks import stage_tasks
from pathways_lite.training.statistics import StepStatistics, make_statistics
from pathways_lite.training.step import TrainState, TrainStep, init_state, make_train_step


@dataclass(frozen=True)
class Components:
    """A stage on its mesh. Members are computed when first used; the object has no state.

    Attributes:
      spec: the stage.
      devices: those of its mesh, of one process or of many; None: all that JAX has. They need not exist here as long
        as nothing is run.
    """

    spec: StageSpec
    devices: Sequence[jax.Device] | None = None

    @property
    def stage(self) -> Stage:
        return self.spec.stage

    @property
    def timeline(self) -> Timeline:
        return self.spec.timeline

    @functools.cached_property
    def layout(self) -> Layout:
        """How arrays are sharded. Raises UserError where the recipe's mesh does not fit the devices."""
        return Layout(stage_mesh(self.stage, self.devices))

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer, with pruning around it where the stage prunes."""
        return optimizers.build_stage_optimizer(self.stage, self.timeline, self.spec.trainable)

    @functools.cached_property
    def sample_weights(self) -> SampleWeights | None:
        """The weighting of samples; None where all weigh the same."""
        return build_sample_weights(self.spec, self.layout)

    @functools.cached_property
    def evaluator(self) -> StageEvaluator:
        """Held-out evaluation of the stage's corpus with the stage's model."""
        return self.evaluator_on(self.spec.store)

    @functools.cached_property
    def tasks(self) -> TaskEvaluator | None:
        """The evaluation of the stage's tasks; None where it has none."""
        return stage_tasks(self.stage, self.spec.store, self.layout)

    def evaluate(self, params: Any, between_batches: Callable[[int, int], None]) -> dict[str, Any]:
        """Return all results of an evaluation: `domains`; `denoisers` and `tasks` where the stage has any.

        `between_batches` is called between batches; an exception that it raises ends the evaluation.
        """
        held_out = self.evaluator.evaluate(params, between_batches=between_batches)
        values: dict[str, Any] = {"domains": {name: result.to_json() for name, result in held_out.items()}}
        if denoisers := self.evaluator.evaluate_denoisers(params, between_batches=between_batches):
            values["denoisers"] = denoisers
        if (tasks := self.tasks) is not None:
            values["tasks"] = tasks.evaluate(params, lambda items: between_batches(items, tasks.items))
        return values

    def evaluator_on(
        self,
        documents: HeldOutSource,
        tokens: int | None = None,
        overlap: int | None = None,
        seq_len: int | None = None,
    ) -> StageEvaluator:
        """Return the evaluation of other held-out documents, or with other `Evaluation.tokens` or `.overlap`.

        `seq_len`: of its windows, instead of the stage's.
        """
        stage = self.stage
        given = {name: value for name, value in {"tokens": tokens, "overlap": overlap}.items() if value is not None}
        stage = stage.model_copy(update={"evaluation": stage.evaluation.model_copy(update=given)})
        if seq_len not in (None, stage.data.seq_len):
            stage = stage.model_copy(update={"data": stage.data.model_copy(update={"seq_len": seq_len})})
        rows = min(stage.ramp.sequences_at(0), stage.microbatch or 64)
        return StageEvaluator(stage, documents, self.layout, rows=rows)

    # ---- the train step ----

    def loss_fn(self, params: Any, batch: Batch, key: jax.Array) -> models.TokenLosses:
        """The losses that the train step differentiates, with dropout by `key`."""
        return self._losses(params, batch, key, observe=False)

    def observed_loss_fn(self, params: Any, batch: Batch, key: jax.Array) -> models.TokenLosses:
        """`loss_fn` with the sizes of activations."""
        return self._losses(params, batch, key, observe=True)

    def _losses(self, params: Any, batch: Batch, key: jax.Array, *, observe: bool) -> models.TokenLosses:
        model, trainable = self.stage.model, self.spec.trainable
        return models.token_losses(
            model,
            trainable.stop_gradients(params),
            batch,
            dropout_key=key,
            layout=self.layout,
            observe=observe,
            segments=trainable.segments(model.n_layers) if trainable.trained else (),
            label_smoothing=self.stage.objective.label_smoothing or 0.0,
        )

    @property
    def step_function(self) -> TrainStep:
        """The pure train step, not compiled, for sequences of the full length."""
        return self.step_function_at(self.stage.data.seq_len)

    def step_function_at(self, seq_len: int) -> TrainStep:
        """The pure train step, not compiled, for sequences of `seq_len` tokens, on which its microbatches depend."""
        stage = self.stage
        return make_train_step(
            self.loss_fn,
            self.optimizer,
            learning_rate=optimizers.learning_rate_fn(stage.optimizer, self.timeline),
            z_loss=stage.objective.z_loss,
            microbatch=microbatch_at(stage, seq_len),
            reparameterize=self.spec.growth_masks,
            sample_weights=self.sample_weights,
            trainable=self.spec.trainable,
            ema=stage.ema,
        )

    def lower_step(self, sequences: int, seq_len: int | None = None) -> jax.stages.Lowered:
        """Lower the train step for batches of `sequences` on the stage's mesh, whose devices need not exist here.

        `seq_len`: tokens of each sequence; None: those after a warm-up.
        """
        seq_len = seq_len or self.stage.data.seq_len
        shardings = (self.shardings, self.layout.sharding(PartitionSpec()))
        step = jax.jit(self.step_function_at(seq_len), donate_argnums=0, out_shardings=shardings)
        return self._lower(step, sequences, seq_len)

    def _lower(self, function: Any, sequences: int, seq_len: int) -> jax.stages.Lowered:
        """Lower a jitted function of (state, batch, clock)."""
        batch = self.layout.abstract_batch(abstract_batch(sequences, seq_len))
        clock = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.timeline.clock(0))
        with jax.sharding.use_abstract_mesh(self.layout.abstract_mesh):  # kernels ask it which chip they are for
            return function.lower(self.abstract_state, batch, clock)

    def compile_step(self, sequences: int, seq_len: int | None = None) -> Any:
        """Compile the train step for batches of `sequences`; its state argument is donated."""
        return self.lower_step(sequences, seq_len).compile(compiler_options=step_options(self.layout.mesh))

    def compiled_step(self, sequences: int, seq_len: int) -> Any:
        """Return the compiled train step for [sequences, seq_len] batches, compiling it when it is first asked for."""
        if (sequences, seq_len) not in self._compiled_steps:
            self._compiled_steps[sequences, seq_len] = self.compile_step(sequences, seq_len)
        return self._compiled_steps[sequences, seq_len]

    @functools.cached_property
    def _compiled_steps(self) -> dict[tuple[int, int], Any]:
        return {}

    # ---- statistics ----

    def statistics_function(self, seq_len: int) -> StepStatistics:
        """The statistics of the step that comes next, not compiled, for sequences of `seq_len` tokens."""
        stage, trainable = self.stage, self.spec.trainable
        gradient_fn = make_gradient_fn(
            self.observed_loss_fn,
            z_loss=stage.objective.z_loss,
            microbatch=microbatch_at(stage, seq_len),
            reparameterize=self.spec.growth_masks,
            sample_weights=self.sample_weights,
            trainable=trainable,
        )
        return make_statistics(gradient_fn, self.optimizer, models.param_specs(stage.model), trainable)

    def compile_statistics(self, sequences: int, seq_len: int) -> Any:
        """Compile the statistics for [sequences, seq_len] batches: nothing is donated, results are replicated."""
        function = jax.jit(self.statistics_function(seq_len), out_shardings=self.layout.sharding(PartitionSpec()))
        return self._lower(function, sequences, seq_len).compile(compiler_options=step_options(self.layout.mesh))

    # ---- the state ----

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state; allocates nothing."""
        model, layout = self.stage.model, self.layout
        params = layout.abstract_parameters(models.abstract_params(model), models.logical_axes(model))
        state = layout.abstract_like_parameters(jax.eval_shape(self._fresh_state), params)
        memory = jax.eval_shape(lambda: initial_memory(self.spec))
        reference_params = ()
        if (reference := reference_model(self.stage)) is not None:
            reference_params = layout.abstract_parameters(
                models.abstract_params(reference), models.logical_axes(reference)
            )
        method = MethodState(layout.abstract_like_parameters(memory, params), reference_params)
        return state._replace(method_state=method if jax.tree.leaves(method) else ())

    @functools.cached_property
    def shardings(self) -> TrainState:
        """Shardings of the state's arrays."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)

    @property
    def initial_shardings(self) -> TrainState:
        """Shardings of a state without a method's arrays."""
        return self.shardings._replace(method_state=())

    def fresh_state(self) -> TrainState:
        """Make random parameters and a fresh optimizer state, from the recipe's seed and the stage's index."""
        make = jax.jit(self._fresh_state, out_shardings=self.initial_shardings)
        return make.lower().compile(compiler_options=run_once_options())()

    def state_with(self, params: Any) -> TrainState:
        """Make a fresh optimizer state for given parameters, with the stage's own key."""
        init = lambda params: self.init_state(params, self.spec.keys()[1])  # noqa: E731
        return jax.jit(init, out_shardings=self.initial_shardings)(params)

    def init_state(self, params: Any, key: jax.Array) -> TrainState:
        """Make the state before step 0 of parameters and a step key; for use inside `jit`."""
        return init_state(params, self.optimizer, key, ema=self.stage.ema, trainable=self.spec.trainable)

    def initial_memory(self) -> Any:
        """Make the memory of sample weights before the first step, replicated; () where there is none."""
        memory = initial_memory(self.spec)
        replicated = self.layout.sharding(PartitionSpec())
        return jax.jit(lambda: jax.tree.map(jnp.asarray, memory), out_shardings=replicated)()

    def evaluated_params(self, opt_state: Any, params: Any, step: int) -> Any:
        """Return the parameters to evaluate and keep: schedule-free's average, under the masks of growth at `step`."""
        trainable = self.spec.trainable
        params = trainable.with_rows(params, optimizers.evaluation_params(opt_state, trainable.rows(params)))
        return self._grown(params, step)

    def averaged_params(self, average: Average, opt_state: Any, params: Any, step: int) -> Any:
        """Return the parameters with their moving average in place of what is trained, under the masks of the step."""
        params = self.spec.trainable.with_rows(params, average.params)
        return self._grown(apply_masks(opt_state, params), step)

    def _grown(self, params: Any, step: int) -> Any:
        masks = self.spec.growth_masks
        return params if masks is None else jax.jit(masks)(params, self.timeline.clock(step))

    def _fresh_state(self) -> TrainState:
        params_key, step_key = self.spec.keys()
        return self.init_state(models.init(self.stage.model, params_key), step_key)


def abstract_batch(sequences: int, length: int) -> Batch:
    """Return shapes and dtypes of a batch."""

    def array(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((sequences, length), dtype)

    return Batch(
        tokens=array(np.int32),
        targets=array(np.int32),
        loss_weights=array(np.float32),
        positions=array(np.int32),
        spans=Spans(array(np.int32), array(np.int32)),
        domain=jax.ShapeDtypeStruct((sequences,), np.int32),
        sample_id=jax.ShapeDtypeStruct((sequences, 2), np.uint32),
    )
