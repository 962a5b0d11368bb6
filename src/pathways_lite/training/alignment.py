"""How far each domain's gradient points where another one does, by two forward passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pathways_lite.batch import Batch
from pathways_lite.methods.domain_weights import means_of_domains
from pathways_lite.training.examples import Examples, Means, TokenLosses, accumulate, losses_of

DISTANCE = 0.01
"""Norm of the displacement of all parameters, as in DARTS (Liu et al. 2019, arXiv 1806.09055, equation 8)."""


def alignments(
    token_losses: TokenLosses,
    params: Any,
    batch: Batch,
    key: jax.Array,
    microbatch: int | None,
    *,
    aims: Callable[[Batch], jax.Array],
    domains: int,
) -> jax.Array:
    """<grad L_j, h> / |h| for each of D domains, float32 [D]; 0 for those that the batch has nothing of.

    L_j is the mean loss of domain j in the batch, and h the gradient of the mean loss that `aims` weighs rows for.

    It is a central difference, (L_j(params + v) - L_j(params - v)) / 2 |v|, with v a short way along h; its error is
    of the order of |v|^2. Forward-mode differentiation would need as many FLOPs, and kernels with a backward pass of
    their own have none. One gradient per domain would be exact, but takes D backward passes and D times the memory, or
    slices that hold one domain each, which no mixture promises. Two forward passes do for any batch, slices and mesh.
    """
    weights = aims(batch)
    total = jnp.sum(batch.loss_weights)
    total = jnp.where(total > 0.0, total, 1.0)

    def mean_loss(params: Any, part: Examples, key: jax.Array) -> tuple[jax.Array, Means]:
        loss, _ = token_losses(params, part.batch, key)
        found = jnp.sum(part.batch.loss_weights * part.weights * loss) / total
        return found, Means(found, jnp.zeros(()))

    towards, _ = accumulate(jax.grad(mean_loss, has_aux=True), params, Examples(batch, weights), key, microbatch)
    norm = optax.tree.norm(towards)
    length = DISTANCE / jnp.where(norm > 0.0, norm, 1.0)

    def losses_at(sign: jax.Array) -> jax.Array:
        moved = jax.tree.map(lambda p, h: p + sign * length * h, params, towards)
        return means_of_domains(losses_of(token_losses, moved, batch, key, microbatch), batch, domains)[0]

    ahead, behind = jax.lax.map(losses_at, jnp.asarray([1.0, -1.0]))  # compiled once
    return (ahead - behind) / (2.0 * DISTANCE)
