"""The train step: one pure function from a state and a batch to the next state and its metrics.

    per-token losses -> weights of samples -> weighted sum -> gradient -> optax

Shapes: B samples, T positions.
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
from pathways_lite.training.grad_accum import LossMeans, Microbatch, TokenLosses, accumulate_gradients
from pathways_lite.training.sample_weights import MethodState, SampleWeights

# What a train step carries from step to step.


class TrainState(NamedTuple):
    """A pytree of plain arrays: all of it is donated to the next step, and all of it is saved and restored as one."""

    step: Any  # int32 scalar, steps taken (also those whose update was dropped)
    params: Any  # nested dict of float32 arrays
    opt_state: Any
    method_state: Any  # of a training-efficiency method, `weighting.MethodState`; () where there is none
    key: Any  # uint32 key data of a `jax.random` key; each step derives its own from it


def init_state(params: Any, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before step 0. It owns `params`, which a donating step consumes. `key`: from `jax.random`."""
    opt_state = optimizer.init(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=apply_masks(opt_state, params),
        opt_state=opt_state,
        method_state=(),
        key=jnp.copy(jax.random.key_data(key)),  # the caller's key outlives the state
    )


Reparameterize = Callable[[Any, Clock], Any]
"""(trained parameters, clock) -> the parameters that the model computes with."""

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch, Clock], tuple[TrainState, Metrics]]


def make_train_step(
    token_losses: TokenLosses,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    learning_rate: Callable[[Clock], jax.Array],
    z_loss: float,
    microbatch: int | None = None,
    view: Reparameterize | None = None,
    sample_weights: SampleWeights | None = None,
) -> TrainStep:
    """A pure function (state, batch, clock) -> (state, metrics), to be jitted with the state donated.

    The loss is the mean over the batch of nll + z_loss * (log Z)^2, weighted by `batch.loss_weights` (PaLM
    section 5). With `microbatch`, gradients of slices of so many samples are added up in float32, which equals the
    whole batch's gradient whatever the weights are. `learning_rate_fn` is for the metrics alone. `view`: what the model
    makes of what is trained, where these differ; once per step. `sample_weights` multiply the nll, not the z-loss, by
    what it makes of the whole batch's losses.

    Where the loss or the gradient's norm is not finite, parameters, optimizer and method state stay as they were, bit
    for bit, and only `step` advances.

    Metrics, float32 scalars: `loss` (nats per token of the whole batch, without z-loss and sample weights), `z_loss`
    (as added to it), `grad_norm` (before clipping), `learning_rate_fn`, `ok` (1, or 0 where the update was dropped),
    `tokens_with_loss`; and the statistics of sample weights, arrays among them. What these learn from step to step is
    in the method state.
    """

    def train_step(state: TrainState, batch: Batch, clock: Clock) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        seen, pull_back = state.params, lambda grads: (grads,)
        if view is not None:
            seen, pull_back = jax.vjp(lambda params: view(params, clock), state.params)
        examples, known, memory = Microbatch(batch), None, None
        method = MethodState(*state.method_state)
        if sample_weights is not None:
            examples, known, memory = sample_weights.prepare(token_losses, seen, method, batch, key, clock, microbatch)
        total = jnp.sum(examples.batch.loss_weights)
        total = jnp.where(total > 0.0, total, 1.0)  # no position carries loss: a gradient of zero, not 0 / 0

        def mean_loss(params: Any, part: Microbatch, dropout_key: jax.Array) -> tuple[jax.Array, LossMeans]:
            """This part's share of the batch's mean, so that parts add up."""
            loss, log_z = token_losses(params, part.batch, dropout_key)
            share = lambda values: jnp.sum(jnp.sum(part.batch.loss_weights * values, axis=1)) / total  # noqa: E731
            means = LossMeans(share(loss), share(jnp.square(log_z)))
            if sample_weights is None:
                return means.loss + z_loss * means.log_z_squared, means
            weights = part.weights
            if weights is None:  # then this part is the whole batch
                excess = sample_weights.excess_loss(loss, part.reference)
                weights, memory = sample_weights.weigh(excess, part.batch, clock, method.memory)
                means = means._replace(weighing=(weights, memory))
            return share(weights * loss) + z_loss * means.log_z_squared, means

        gradient = jax.grad(mean_loss, has_aux=True)
        grads, means = accumulate_gradients(gradient, seen, examples, key, microbatch)
        (grads,) = pull_back(grads)

        grad_norm = optax.tree.norm(grads)
        if sample_weights is not None and known is None:
            weights, memory = means.weighing
            known = sample_weights.statistics(weights, batch, memory)
        metrics = {
            "loss": means.loss,
            "z_loss": z_loss * means.log_z_squared,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(clock),
            "tokens_with_loss": jnp.sum(batch.loss_weights > 0.0),
        } | (known or {})
        ok = jnp.isfinite(metrics["loss"] + metrics["z_loss"]) & jnp.isfinite(grad_norm)

        def update(params: Any, opt_state: Any) -> tuple[Any, Any]:
            extra = {"clock": clock, "grad_norm": grad_norm}
            updates, opt_state = optimizer.update(grads, opt_state, params, **extra)
            return optax.apply_updates(params, updates), opt_state

        # A branch, not a `where` over all arrays: on a CPU that makes an AdamW update take 4 times as long.
        params, opt_state = jax.lax.cond(ok, update, lambda *old: old, state.params, state.opt_state)
        state = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
        if state.method_state:
            kept = jax.tree.map(lambda new, old: jnp.where(ok, new, old), memory, method.memory)
            state = state._replace(method_state=method._replace(memory=kept))
        return state, {name: jnp.float32(value) for name, value in (metrics | {"ok": ok}).items()}

    return train_step
