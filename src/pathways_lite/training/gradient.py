"""The gradient of a batch: per-token losses -> weights of samples -> weighted mean -> gradient of what is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pathways_lite.batch import Batch
from pathways_lite.ledger import Clock
from pathways_lite.models import LossFn
from pathways_lite.models.activations import Activations
from pathways_lite.models.trainable import Trainable
from pathways_lite.training.grad_accum import LossMeans, Microbatch, accumulate_gradients
from pathways_lite.training.sample_weights import MethodState, Prepared, SampleWeights

Reparameterize = Callable[[Any, Clock], Any]
"""(trained parameters, clock) -> the parameters that the model computes with."""


class Gradient(NamedTuple):
    """The gradient of a batch's loss, with what was computed for it."""

    grads: Any  # of what is trained, `Trainable.rows`
    means: LossMeans
    prepared: Prepared
    method: MethodState


GradientFn = Callable[[Any, Any, Any, jax.Array, Batch, Clock], Gradient]
"""(step, params, method state, key data, batch, clock) -> gradient."""


def make_gradient_fn(
    loss_fn: LossFn,
    *,
    z_loss: float,
    microbatch: int | None,
    reparameterize: Reparameterize | None,
    sample_weights: SampleWeights | None,
    trainable: Trainable,
) -> GradientFn:
    """Make the function that computes a batch's gradient; `step.make_train_step` describes the arguments."""

    def gradient(
        step: jax.Array, params: Any, method_state: Any, key_data: jax.Array, batch: Batch, clock: Clock
    ) -> Gradient:
        key = jax.random.fold_in(jax.random.wrap_key_data(key_data), step)
        model_params, vjp_fn = params, None
        if reparameterize is not None:
            model_params, vjp_fn = jax.vjp(lambda params: reparameterize(params, clock), params)

        method = MethodState(*method_state)
        prepared = Prepared(Microbatch(batch), None)
        if sample_weights is not None:
            prepared = sample_weights.prepare(loss_fn, model_params, method, batch, key, clock, microbatch)
        sequences = len(prepared.microbatch.batch.tokens)
        total = jnp.sum(prepared.microbatch.batch.loss_weights)
        total = jnp.where(total > 0.0, total, 1.0)  # no position carries loss: a gradient of zero, not 0 / 0

        def mean_loss(arrays: Any, part: Microbatch, dropout_key: jax.Array) -> tuple[jax.Array, LossMeans]:
            """The part's share of the whole batch's mean, so that parts add up."""
            losses = loss_fn(trainable.with_arrays(model_params, arrays), part.batch, dropout_key)
            loss_weights = part.batch.loss_weights
            share = lambda values: jnp.sum(jnp.sum(loss_weights * values, axis=1)) / total  # noqa: E731
            nll, log_z_squared = share(losses.nll), share(jnp.square(losses.log_z))
            activations = _share(losses.auxiliary.activations, len(loss_weights) / sequences)
            auxiliary = losses.auxiliary._replace(activations=None)
            auxiliary = jax.tree.map(lambda value: jnp.sum(loss_weights) / total * value, auxiliary)
            trained = losses.nll if losses.smoothed_nll is None else losses.smoothed_nll
            smoothed = None if losses.smoothed_nll is None else share(losses.smoothed_nll)
            means = LossMeans(nll, log_z_squared, auxiliary, smoothed, activations)
            loss = nll if smoothed is None else smoothed
            if sample_weights is not None:
                weights = part.weights
                if weights is None:  # then this part is the whole batch
                    weighting = sample_weights.compute(losses.nll, part.reference_nll, batch, clock, method.memory)
                    weights, means = weighting.weights, means._replace(weighting=weighting)
                loss = share(weights * trained)
            return sum(auxiliary.losses.values(), loss + z_loss * log_z_squared), means

        gradient_fn = jax.grad(mean_loss, has_aux=True)
        arrays = trainable.arrays(model_params)
        grads, means = accumulate_gradients(gradient_fn, arrays, prepared.microbatch, key, microbatch)
        if vjp_fn is not None:
            (grads,) = vjp_fn(trainable.with_zeros(grads, model_params))
        return Gradient(trainable.rows(grads), means, prepared, method)

    return gradient


def _share(activations: Activations | None, share: float) -> Activations | None:
    """Return a part's share of the batch's activations: means add up, the largest do not."""
    if activations is None:
        return None
    return activations._replace(mean_squares=jax.tree.map(lambda mean: share * mean, activations.mean_squares))
