"""Sizes of activations, observed in a forward pass: the residual stream and attention logits of each block."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_kernels.attention import Spans

QUERIES = 64
"""Attention logits are computed for at most this many queries of a sequence, at equal distances: all of them would cost
as much as the attention itself, and the memory of its logits."""


class MeanSquares(NamedTuple):
    """Means over all positions of a batch; float32 scalars of one block, [L] of all."""

    residual: jax.Array  # of the residual stream after the block


class Largest(NamedTuple):
    """Largest absolute values in a batch; float32 scalars of one block, [L] of all."""

    residual: jax.Array  # in the residual stream after the block
    attention_logit: jax.Array  # q k / sqrt(D) before the soft cap, of visible keys and `QUERIES` queries


class Activations(NamedTuple):
    """The sizes of a block's activations, apart by how those of parts of a batch combine."""

    mean_squares: MeanSquares
    largest: Largest


def observe(x: jax.Array, attention_logit: jax.Array) -> Activations:
    """Measure the residual stream `x` [B, T, E] after a block."""
    y = x.astype(jnp.float32)
    return Activations(MeanSquares(jnp.mean(jnp.square(y))), Largest(jnp.max(jnp.abs(y)), attention_logit))


def largest_logit(q: jax.Array, k: jax.Array, spans: Spans, scale: float) -> jax.Array:
    """Return the largest absolute attention logit of `QUERIES` queries; q [B, T, H, D], k [B, S, K, D], rotated."""
    n_queries, n_groups = q.shape[1], q.shape[2] // k.shape[2]
    chosen = np.unique(np.linspace(0, n_queries - 1, min(n_queries, QUERIES)).round().astype(np.int32))
    grouped = q[:, chosen].reshape(q.shape[0], len(chosen), k.shape[2], n_groups, q.shape[3])
    logits = scale * jnp.einsum("bqkgd,bskd->bqskg", grouped, k, preferred_element_type=jnp.float32)
    keys = jnp.arange(k.shape[1])
    visible = (keys >= spans.start[:, chosen, None]) & (keys < spans.stop[:, chosen, None])
    return jnp.max(jnp.where(visible[..., None, None], jnp.abs(logits), 0.0))
