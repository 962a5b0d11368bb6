"""How far each domain's gradient points where another one does, by two forward passes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pathways_lite.batch import Batch
from pathways_lite.methods.domain_weights import means_of_domains, share_of_domains, token_weights
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
    aim: np.ndarray,
) -> tuple[jax.Array, jax.Array]:
    """<grad L_j, h> / |h| of each of D domains, float32 [D], and of which it is known, bool [D].

    h is the gradient of sum_j aim_j L_j. L_j is the mean loss of domain j, for h in one half of the batch, and else in
    the other: with the same rows on both sides the noise of a domain's gradient would count as aligned with itself.

    It is a central difference, (L_j(params + v) - L_j(params - v)) / 2 |v|, with v a short way along h; its error is
    of the order of |v|^2. Forward-mode differentiation would need as many FLOPs, and kernels with a backward pass of
    their own have none. One gradient per domain would be exact, but takes D backward passes and D times the memory, or
    slices that hold one domain each, which no mixture promises. Two forward passes do for any batch, slices and mesh.
    """
    first, second = halves(batch, key, len(aim))
    share = share_of_domains(first, len(aim))
    total = jnp.sum(first.loss_weights)
    total = jnp.where(total > 0.0, total, 1.0)

    def mean_loss(params: Any, part: Examples, key: jax.Array) -> tuple[jax.Array, Means]:
        loss, _ = token_losses(params, part.batch, key)
        found = jnp.sum(part.batch.loss_weights * part.weights * loss) / total
        return found, Means(found, jnp.zeros(()))

    examples = Examples(first, token_weights(jnp.asarray(aim), share, first))
    towards, _ = accumulate(jax.grad(mean_loss, has_aux=True), params, examples, key, microbatch)
    norm = optax.tree.norm(towards)
    length = DISTANCE / jnp.where(norm > 0.0, norm, 1.0)

    def losses_at(sign: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = jax.tree.map(lambda p, h: p + sign * length * h, params, towards)
        return means_of_domains(losses_of(token_losses, moved, batch, key, microbatch), second, len(aim))

    (ahead, behind), (there, _) = jax.lax.map(losses_at, jnp.asarray([1.0, -1.0]))  # compiled once
    return (ahead - behind) / (2.0 * DISTANCE), (there > 0.0) & (jnp.sum(aim * share) > 0.0)


def halves(batch: Batch, key: jax.Array, domains: int) -> tuple[Batch, Batch]:
    """The batch with the loss of half of its rows, and of the others: each domain's in turns, the first at random."""
    earlier = jnp.sum(jnp.tril(batch.domain[:, None] == batch.domain[None, :], -1), axis=1)
    begin = jax.random.randint(key, (domains,), 0, 2)
    of_first = ((earlier + begin[batch.domain]) % 2 == 0)[:, None]
    only = lambda rows: batch._replace(loss_weights=jnp.where(rows, batch.loss_weights, 0.0))  # noqa: E731
    return only(of_first), only(~of_first)
