"""The train step: one pure function from a state and a batch to the next state and its metrics.

    per-token losses -> weights of samples -> weighted sum -> gradient -> optax

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pathways_lite.batch import Batch
from pathways_lite.ledger import Clock
from pathways_lite.methods.pruning import apply_masks
from pathways_lite.models import LossFn
from pathways_lite.models.trainable import EVERYTHING, Trainable
from pathways_lite.recipe import EMA
from pathways_lite.training.average import start_average, update_average
from pathways_lite.training.gradient import Reparameterize, make_gradient_fn
from pathways_lite.training.sample_weights import SampleWeights, Weighting


class TrainState(NamedTuple):
    """A pytree of plain arrays: all of it is donated to the next step, and all of it is saved and restored as one."""

    step: Any  # int32 scalar, steps taken (also those whose update was dropped)
    params: Any  # nested dict of float32 arrays
    opt_state: Any
    method_state: Any  # of a training-efficiency method, a `MethodState`; () where there is none
    key: Any  # uint32 key data of a `jax.random` key; each step derives its own from it
    average: Any = ()  # of the parameters, an `Average`; () where there is none


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    ema: EMA | None = None,
    trainable: Trainable = EVERYTHING,
) -> TrainState:
    """Make the state before step 0. It owns `params`, which a donating step consumes. `key`: from `jax.random`."""
    opt_state = optimizer.init(params)
    params = apply_masks(opt_state, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=opt_state,
        method_state=(),
        key=jnp.copy(jax.random.key_data(key)),  # the caller's key outlives the state
        average=() if ema is None else start_average(trainable.rows(params)),
    )


Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch, Clock], tuple[TrainState, Metrics]]


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    learning_rate: Callable[[Clock], jax.Array],
    z_loss: float,
    microbatch: int | None = None,
    reparameterize: Reparameterize | None = None,
    sample_weights: SampleWeights | None = None,
    trainable: Trainable = EVERYTHING,
    ema: EMA | None = None,
) -> TrainStep:
    """Make the pure function (state, batch, clock) -> (state, metrics), to be jitted with the state donated.

    The loss is the mean over the batch of nll + z_loss * (log Z)^2, weighted by `batch.loss_weights` (PaLM
    section 5), plus the model's auxiliary losses; with label smoothing the smoothed nll takes the place of nll. Where
    the loss or the gradient's norm is not finite, parameters, optimizer and method state stay as they were, bit for
    bit, and only `step` advances. An update that is not finite although they are (a damaged optimizer state, 0 / 0 with
    epsilon=0) has been applied when it is noticed, as keeping the old state until then would take its memory twice: the
    caller has to give up this state.

    Args:
      loss_fn: losses of every position. Its auxiliary losses and metrics are means over the slices of a batch, by
        their loss weights.
      optimizer: its update is given `clock` and `grad_norm` as extra arguments.
      learning_rate: for the metrics alone.
      microbatch: sequences per slice; gradients of slices are summed in float32, which equals the whole batch's
        gradient whatever the weights are. None: the whole batch at once.
      reparameterize: what the model computes with as a function of what is trained, where they differ; once per step.
      sample_weights: its weights, computed from the losses of the whole batch, multiply the nll, not the z-loss.
      trainable: what is trained; everything else stays as it is, bit for bit, and is in no gradient.
      ema: the moving average in the state, which is updated after the parameters.

    Metrics, float32 scalars: `loss` (nats per token of the whole batch, without z-loss, auxiliary losses, sample
    weights and smoothing), `z_loss` (as added to it), `grad_norm` (before clipping), `learning_rate`, `ok` (1, or 0
    where the update was dropped), `usable` (1, or 0 where the new parameters are not finite), `tokens_with_loss`; with
    label smoothing `smoothed_loss`, of the rows trained on; the model's auxiliary losses and metrics by their names;
    and the statistics of sample weights, arrays among them. What a method learns from step to step is in its state.
    """

    gradient_fn = make_gradient_fn(
        loss_fn,
        z_loss=z_loss,
        microbatch=microbatch,
        reparameterize=reparameterize,
        sample_weights=sample_weights,
        trainable=trainable,
    )

    def train_step(state: TrainState, batch: Batch, clock: Clock) -> tuple[TrainState, Metrics]:
        grads, means, prepared, method = gradient_fn(
            state.step, state.params, state.method_state, state.key, batch, clock
        )
        grad_norm = optax.tree.norm(grads)
        metrics = {
            "loss": means.nll if prepared.nll is None else prepared.nll,
            "z_loss": z_loss * means.log_z_squared,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(clock),
            "tokens_with_loss": jnp.sum(batch.loss_weights > 0.0),
        }
        loss = sum(means.auxiliary.losses.values(), metrics["loss"] + metrics["z_loss"])
        metrics |= means.auxiliary.losses | means.auxiliary.metrics
        if means.smoothed_nll is not None:
            metrics["smoothed_loss"] = means.smoothed_nll
        weighting: Weighting | None = prepared.weighting or means.weighting
        if sample_weights is not None and weighting is not None:
            metrics |= sample_weights.statistics(weighting.weights, batch, weighting.memory)
        ok = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def update(params: Any, opt_state: Any, average: Any) -> tuple[Any, Any, Any, jax.Array]:
            extra = {"clock": clock, "grad_norm": grad_norm}
            updates, opt_state = optimizer.update(grads, opt_state, params, **extra)
            rows = optax.apply_updates(trainable.rows(params), updates)
            if ema is not None:
                average = update_average(ema, average, rows, state.step + 1)
            # A sum of squares is one pass; `isfinite` of every element makes XLA store its results on a CPU.
            usable = jnp.isfinite(optax.tree.norm(rows, squared=True))
            return trainable.with_rows(params, rows), opt_state, average, usable

        def keep(params: Any, opt_state: Any, average: Any) -> tuple[Any, Any, Any, jax.Array]:
            return params, opt_state, average, jnp.bool_(True)

        # A branch, not a `where` over all arrays: on a CPU that makes an AdamW update take 4 times as long.
        operands = state.params, state.opt_state, state.average
        params, opt_state, average, usable = jax.lax.cond(ok, update, keep, *operands)
        state = state._replace(step=state.step + 1, params=params, opt_state=opt_state, average=average)
        if state.method_state:
            assert weighting is not None
            memory = jax.tree.map(lambda new, old: jnp.where(ok, new, old), weighting.memory, method.memory)
            state = state._replace(method_state=method._replace(memory=memory))
        return state, {name: jnp.float32(value) for name, value in (metrics | {"ok": ok, "usable": usable}).items()}

    return train_step
