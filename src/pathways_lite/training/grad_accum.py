"""Losses and gradients of a batch, whole or in slices of `microbatch` sequences.

Shapes: B sequences, T positions, m sequences of a slice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pathways_lite.batch import Batch
from pathways_lite.models import Auxiliary, LossFn
from pathways_lite.models.activations import Activations


class Microbatch(NamedTuple):
    """Sequences to train on, with what is computed of them before the gradient."""

    batch: Batch
    weights: Any = None  # float32 [B, T] or [B, 1], factors of the losses; None: not computed yet, or all 1
    reference_nll: Any = None  # float32 [B, T], losses of another model; None: there is none, or it has been used


class LossMeans(NamedTuple):
    """Means over a batch's positions, weighted by its loss weights, or a slice's share of them; float32 scalars."""

    nll: jax.Array  # nats
    log_z_squared: jax.Array
    auxiliary: Auxiliary  # of the model, without activations
    smoothed_nll: jax.Array | None = None  # nats; None: no label smoothing
    activations: Activations | None = None  # where they are observed; the largest are not means
    weighting: Any = None  # the weights of samples and the method's new memory, where computed with the losses


def split_microbatches(batch: Any, microbatch: int) -> Any:
    """Reshape arrays [B, ...] to [B / m, m, ...]: slice i is the sequences i, i + B / m, ...

    Where sequences are sharded over devices, each slice is too.
    """

    def split(x: jax.Array) -> jax.Array:
        if x.shape[0] % microbatch:
            raise ValueError(f"microbatch={microbatch} does not divide a batch of {x.shape[0]} samples")
        return x.reshape(microbatch, x.shape[0] // microbatch, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def accumulate_gradients(
    gradient_fn: Callable[[Any, Microbatch, jax.Array], tuple[Any, Any]],
    params: Any,
    whole: Microbatch,
    key: jax.Array,
    microbatch: int | None,
) -> tuple[Any, Any]:
    """Sum `gradient_fn(params, slice, key)`, gradients and means, over slices of `microbatch` sequences in turn."""
    if microbatch is None or microbatch == whole.batch.tokens.shape[0]:
        return gradient_fn(params, whole, key)
    slices = split_microbatches(whole, microbatch)

    def add(sums: Any, scanned: tuple[Microbatch, jax.Array]) -> tuple[Any, None]:
        part, index = scanned
        return _add(sums, gradient_fn(params, part, jax.random.fold_in(key, index))), None

    first = jax.tree.map(lambda x: x[0], slices)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), jax.eval_shape(gradient_fn, params, first, key))
    sums, _ = jax.lax.scan(add, zeros, (slices, jnp.arange(len(slices.batch.tokens))))
    return sums


def _add(sums: tuple[Any, Any], part: tuple[Any, Any]) -> tuple[Any, Any]:
    """Add gradients and means; of the largest activations, take the larger."""
    grads, means = jax.tree.map(jnp.add, sums, part)
    if isinstance(means, LossMeans) and means.activations is not None:
        largest = jax.tree.map(jnp.maximum, sums[1].activations.largest, part[1].activations.largest)
        means = means._replace(activations=means.activations._replace(largest=largest))
    return grads, means


def per_token_nll(loss_fn: LossFn, params: Any, batch: Batch, key: jax.Array, microbatch: int | None) -> jax.Array:
    """Compute losses [B, T] without a gradient: those of `accumulate_gradients`, in the same slices and keys."""
    if microbatch is None or microbatch == batch.tokens.shape[0]:
        return loss_fn(params, batch, key).nll
    slices = split_microbatches(batch, microbatch)

    def nll_of_slice(scanned: tuple[Batch, jax.Array]) -> jax.Array:
        part, index = scanned
        return loss_fn(params, part, jax.random.fold_in(key, index)).nll

    nll = jax.lax.map(nll_of_slice, (slices, jnp.arange(len(slices.tokens))))
    return nll.swapaxes(0, 1).reshape(batch.tokens.shape)
