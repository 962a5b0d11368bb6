"""What a train step computes losses of: a batch, whole or in slices.

Shapes: B samples, T positions, m samples of a slice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pathways_lite.batch import Batch

TokenLosses = Callable[[Any, Batch, jax.Array], tuple[jax.Array, jax.Array]]
"""(params, batch, dropout key) -> loss [B, T] and log Z [B, T], both float32."""


class Microbatch(NamedTuple):
    """Rows to train on, and what is known of them before."""

    batch: Batch
    weights: Any = None  # float32 [B, T] or [B, 1], of their losses; None: not known, or all 1
    reference: Any = None  # float32 [B, T], losses of another model; None: there is none, or it has been used


class LossMeans(NamedTuple):
    """Of a batch, or a slice's share of it: means over positions by the batch's loss weights; float32 scalars."""

    loss: jax.Array  # negative log likelihood, nats
    log_z_squared: jax.Array
    weighing: Any = None  # what samples were weighted by, and what was learned, where it was found with the losses


def split_microbatches(examples: Any, microbatch: int) -> Any:
    """Arrays [B, ...] as [B / m, m, ...]: slice i is samples i, i + B / m, ...

    Where samples are spread over devices, each slice is too.
    """

    def cut(x: jax.Array) -> jax.Array:
        if x.shape[0] % microbatch:
            raise ValueError(f"microbatch={microbatch} does not divide a batch of {x.shape[0]} samples")
        return x.reshape(microbatch, x.shape[0] // microbatch, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, examples)


def accumulate_gradients(
    gradient: Callable[[Any, Microbatch, jax.Array], tuple[Any, LossMeans]],
    params: Any,
    examples: Microbatch,
    key: jax.Array,
    microbatch: int | None,
) -> tuple[Any, LossMeans]:
    """The sum of `gradient(params, slice, key)` over slices of `microbatch` samples, one after the other."""
    if microbatch is None or microbatch == examples.batch.tokens.shape[0]:
        return gradient(params, examples, key)
    slices = split_microbatches(examples, microbatch)

    def add(sums: Any, scanned: tuple[Microbatch, jax.Array]) -> tuple[Any, None]:
        part, index = scanned
        return jax.tree.map(jnp.add, sums, gradient(params, part, jax.random.fold_in(key, index))), None

    zeros = (jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params), LossMeans(jnp.zeros(()), jnp.zeros(())))
    sums, _ = jax.lax.scan(add, zeros, (slices, jnp.arange(len(slices.batch.tokens))))
    return sums


def per_token_losses(
    token_losses: TokenLosses, params: Any, batch: Batch, key: jax.Array, microbatch: int | None
) -> jax.Array:
    """Losses [B, T] without a gradient: as `accumulate_gradients` computes them, slice by slice."""
    if microbatch is None or microbatch == batch.tokens.shape[0]:
        return token_losses(params, batch, key)[0]
    slices = split_microbatches(batch, microbatch)

    def one(scanned: tuple[Batch, jax.Array]) -> jax.Array:
        part, index = scanned
        return token_losses(params, part, jax.random.fold_in(key, index))[0]

    losses = jax.lax.map(one, (slices, jnp.arange(len(slices.tokens))))
    return losses.swapaxes(0, 1).reshape(batch.tokens.shape)
