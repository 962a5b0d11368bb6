"""The train step: one pure function from a state and a batch to the next state and its metrics.

    per-token losses -> per-sample losses -> weighted sum -> gradient -> optax

Shapes: B samples, T positions, m samples of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pathways_lite.batch import Batch
from pathways_lite.ledger import Clock
from pathways_lite.training.state import TrainState

TokenLosses = Callable[[Any, Batch, jax.Array], tuple[jax.Array, jax.Array]]
"""(params, batch, dropout key) -> loss [B, T] and log Z [B, T], both float32."""

View = Callable[[Any, Clock], Any]
"""(trained parameters, clock) -> the parameters that the model computes with."""

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch, Clock], tuple[TrainState, Metrics]]


class Losses(NamedTuple):
    """Sums over positions, weighted by the batch's loss weights; float32 [B] per sample, or scalars of a batch."""

    loss: jax.Array  # negative log likelihood, nats
    log_z_squared: jax.Array


def make_train_step(
    token_losses: TokenLosses,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    learning_rate: Callable[[Clock], jax.Array],
    z_loss: float,
    microbatch: int | None = None,
    view: View | None = None,
) -> TrainStep:
    """A pure function (state, batch, clock) -> (state, metrics), to be jitted with the state donated.

    The loss is the mean over the batch of nll + z_loss * (log Z)^2, weighted by `batch.loss_weights` (PaLM
    section 5). With `microbatch`, gradients of slices of so many samples are added up in float32, which equals the
    whole batch's gradient whatever the weights are. `learning_rate` is for the metrics alone. `view`: what the model
    makes of what is trained, where these differ; once per step.

    Where the loss or the gradient's norm is not finite, parameters, optimizer and method state stay as they were, bit
    for bit, and only `step` advances.

    Metrics, float32 scalars: `loss` (nats per token, without z-loss), `z_loss` (as added to it), `grad_norm` (before
    clipping), `learning_rate`, `ok` (1, or 0 where the update was dropped), `tokens_with_loss`.
    """

    def train_step(state: TrainState, batch: Batch, clock: Clock) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        total = jnp.sum(batch.loss_weights)
        total = jnp.where(total > 0.0, total, 1.0)  # no position carries loss: a gradient of zero, not 0 / 0

        def mean_loss(params: Any, part: Batch, dropout_key: jax.Array) -> tuple[jax.Array, Losses]:
            """This part's share of the batch's mean, so that parts add up."""
            samples = sample_losses(token_losses, params, part, dropout_key)
            means = jax.tree.map(lambda sums: jnp.sum(sums) / total, samples)
            return means.loss + z_loss * means.log_z_squared, means

        gradient = jax.grad(mean_loss, has_aux=True)
        if view is None:
            grads, means = accumulate(gradient, state.params, batch, key, microbatch)
        else:
            seen, pull_back = jax.vjp(lambda params: view(params, clock), state.params)
            grads, means = accumulate(gradient, seen, batch, key, microbatch)
            (grads,) = pull_back(grads)

        grad_norm = optax.tree.norm(grads)
        added = z_loss * means.log_z_squared
        ok = jnp.isfinite(means.loss + added) & jnp.isfinite(grad_norm)

        def update(params: Any, opt_state: Any) -> tuple[Any, Any]:
            extra = {"clock": clock, "grad_norm": grad_norm}
            updates, opt_state = optimizer.update(grads, opt_state, params, **extra)
            return optax.apply_updates(params, updates), opt_state

        # A branch, not a `where` over all arrays: on a CPU that makes an AdamW update take 4 times as long.
        params, opt_state = jax.lax.cond(ok, update, lambda *old: old, state.params, state.opt_state)

        metrics = {
            "loss": means.loss,
            "z_loss": added,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(clock),
            "ok": ok,
            "tokens_with_loss": jnp.sum(batch.loss_weights > 0.0),
        }
        state = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
        return state, {name: jnp.float32(value) for name, value in metrics.items()}

    return train_step


def sample_losses(token_losses: TokenLosses, params: Any, batch: Batch, key: jax.Array) -> Losses:
    """Each sample's losses summed over its positions, [B]. A weight per sample multiplies these."""
    loss, log_z = token_losses(params, batch, key)
    weighted = lambda values: jnp.sum(batch.loss_weights * values, axis=1)  # noqa: E731
    return Losses(loss=weighted(loss), log_z_squared=weighted(jnp.square(log_z)))


def accumulate(
    gradient: Callable[[Any, Batch, jax.Array], tuple[Any, Losses]],
    params: Any,
    batch: Batch,
    key: jax.Array,
    microbatch: int | None,
) -> tuple[Any, Losses]:
    """The sum of `gradient(params, slice, key)` over slices of `microbatch` samples, one after the other."""
    samples = batch.tokens.shape[0]
    if microbatch is None or microbatch == samples:
        return gradient(params, batch, key)
    if samples % microbatch:
        raise ValueError(f"microbatch={microbatch} does not divide a batch of {samples} samples")
    count = samples // microbatch
    # Slice i takes samples i, i + count, ...: where samples are spread over devices, each slice is too.
    slices = jax.tree.map(lambda x: x.reshape(microbatch, count, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(sums: Any, scanned: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        part, index = scanned
        return jax.tree.map(jnp.add, sums, gradient(params, part, jax.random.fold_in(key, index))), None

    zeros = (jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params), Losses(jnp.zeros(()), jnp.zeros(())))
    sums, _ = jax.lax.scan(add, zeros, (slices, jnp.arange(count)))
    return sums
