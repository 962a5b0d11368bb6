"""Attention with so few scores that the weights are kept for the backward pass instead of computed again.

The same transposed layout as `chunked`, which calls this and explains it, without its loops.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from pathways_kernels.attention.blocks import (
    Blocks,
    allowed,
    cut_keys,
    cut_queries,
    cut_spans,
    dot,
    join_keys,
    join_queries,
    t,
)
from pathways_kernels.attention.common import RESULTS
from pathways_kernels.attention.spans import Spans

Array = jax.Array

# T·S up to which this is the faster way; per row and head that many weights are kept.
MOST_SCORES = 128 * 128


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def one_block(q: Array, k: Array, v: Array, spans: Spans, scale: float) -> Array:
    """See `attention`; without a soft cap. Differentiable once, in reverse mode."""
    return _fwd(q, k, v, spans, scale)[0]


def _fwd(q: Array, k: Array, v: Array, spans: Spans, scale: float) -> tuple[Array, tuple[Any, ...]]:
    out, weights = checkpoint_name(_per_platform(_forward, scale, q, k, v, spans), RESULTS)
    return out, (q, k, v, weights)


def _bwd(scale: float, residuals: tuple[Any, ...], d_out: Array) -> tuple[Array | None, ...]:
    return (*_per_platform(_backward, scale, *residuals, d_out), None)


one_block.defvjp(_fwd, _bwd)


def _per_platform(run: Callable[..., Any], scale: float, q: Array, k: Array, *rest: Any) -> Any:
    whole = Blocks(q.shape[0], q.shape[1], k.shape[1], for_cpu=False)
    cpu = whole._replace(for_cpu=True)
    return lax.platform_dependent(q, k, *rest, cpu=partial(run, cpu, scale), default=partial(run, whole, scale))


def _forward(b: Blocks, scale: float, q: Array, k: Array, v: Array, spans: Spans) -> tuple[Array, Array]:
    """The output `[B, T, H, D]` and the weights, float32 `[1, 1, B, K, S, T·G]`."""
    K = k.shape[2]
    dtype = q.dtype
    if b.for_cpu:
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    seen = cut_spans(spans, b, b.keys, q.shape[2] // K)
    logits = jnp.where(allowed(seen, 0, b.keys), dot(cut_keys(k, b), t(cut_queries(q, b, K))) * scale, -jnp.inf)
    if b.for_cpu:
        logits = lax.optimization_barrier(logits)  # two readers: XLA would compute it for each of them
    top = logits.max(-2, keepdims=True)
    weights = jnp.exp(logits - jnp.where(top == -jnp.inf, 0, top))
    total = weights.sum(-2, keepdims=True)
    weights = weights / jnp.where(total == 0, 1, total)
    if b.for_cpu:
        weights = lax.optimization_barrier(weights)
    out = t(dot(t(cut_keys(v, b)), weights.astype(v.dtype)))
    return join_queries(out, b, *q.shape[:2]).astype(dtype), weights


def _backward(
    b: Blocks, scale: float, q: Array, k: Array, v: Array, weights: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """The gradients with respect to q, k and v. `d_x` is the loss's derivative with respect to x."""
    B, T = q.shape[:2]
    S, K = k.shape[1:3]
    dtype = q.dtype
    if b.for_cpu:
        q, k, v, d_out = (x.astype(jnp.float32) for x in (q, k, v, d_out))
    q, d_out, k, v = cut_queries(q, b, K), cut_queries(d_out, b, K), cut_keys(k, b), cut_keys(v, b)
    d_weights = dot(v, t(d_out))
    d_logits = weights * (d_weights - (weights * d_weights).sum(-2, keepdims=True)) * scale
    d_logits = d_logits.astype(k.dtype)
    d_q = join_queries(t(dot(t(k), d_logits)), b, B, T)
    d_k = join_keys(dot(d_logits, q), B, S)
    d_v = join_keys(dot(weights.astype(v.dtype), d_out), B, S)
    return d_q.astype(dtype), d_k.astype(dtype), d_v.astype(dtype)
