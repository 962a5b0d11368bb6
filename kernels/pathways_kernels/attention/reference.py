"""Attention by its definition, quadratic in memory: every other backend is tested against it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from pathways_kernels.attention.spans import Spans, dense_mask


def reference(
    q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans, *, scale: float, logits_soft_cap: float | None = None
) -> jax.Array:
    """See `attention`. Float32 throughout; differentiable any number of times, in both modes."""
    B, T, H, D = q.shape
    S, K = k.shape[1:3]
    grouped = q.reshape(B, T, K, H // K, D).astype(jnp.float32)
    k, v = k.astype(jnp.float32), v.astype(jnp.float32)
    logits = scale * jnp.einsum("btkgd,bskd->bkgts", grouped, k, precision=lax.Precision.HIGHEST)
    if logits_soft_cap is not None:
        logits = logits_soft_cap * jnp.tanh(logits / logits_soft_cap)
    allowed = dense_mask(Spans(jnp.asarray(spans.start), jnp.asarray(spans.stop)), S)[:, None, None]
    # A finite mask value: a row that sees nothing is uniform here, without a NaN in its gradient, and zeroed below.
    weights = jax.nn.softmax(jnp.where(allowed, logits, jnp.finfo(jnp.float32).min), axis=-1)
    weights = jnp.where(allowed, weights, 0)
    out = jnp.einsum("bkgts,bskd->btkgd", weights, v, precision=lax.Precision.HIGHEST)
    return out.reshape(q.shape).astype(q.dtype)
