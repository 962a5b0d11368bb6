"""Attention with so few scores that the weights are saved for the backward pass instead of computed again.

`chunked` calls it; the same transposed layout, which is explained there, without the loops.
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
    BlockShape,
    allowed_mask,
    dot,
    merge_keys,
    merge_queries,
    split_keys,
    split_queries,
    split_spans,
    transpose,
)
from pathways_kernels.attention.common import CHECKPOINT_NAME
from pathways_kernels.attention.spans import Spans

Array = jax.Array

# T·S up to which this is faster; per row and head that many weights are saved.
MAX_SCORES = 128 * 128


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def one_block(q: Array, k: Array, v: Array, spans: Spans, scale: float) -> Array:
    """See `attention`; without a soft cap. Differentiable once, in reverse mode."""
    return _fwd(q, k, v, spans, scale)[0]


def _fwd(q: Array, k: Array, v: Array, spans: Spans, scale: float) -> tuple[Array, tuple[Any, ...]]:
    out, weights = checkpoint_name(_per_platform(_forward, scale, q, k, v, spans), CHECKPOINT_NAME)
    return out, (q, k, v, weights)


def _bwd(scale: float, residuals: tuple[Any, ...], d_out: Array) -> tuple[Array | None, ...]:
    return (*_per_platform(_backward, scale, *residuals, d_out), None)


one_block.defvjp(_fwd, _bwd)


def _per_platform(run: Callable[..., Any], scale: float, q: Array, k: Array, *rest: Any) -> Any:
    accelerator = BlockShape(q.shape[0], q.shape[1], k.shape[1], for_cpu=False)
    cpu = accelerator._replace(for_cpu=True)
    return lax.platform_dependent(q, k, *rest, cpu=partial(run, cpu, scale), default=partial(run, accelerator, scale))


def _forward(b: BlockShape, scale: float, q: Array, k: Array, v: Array, spans: Spans) -> tuple[Array, Array]:
    """Return the output `[B, T, H, D]` and the weights, float32 `[1, 1, B, K, S, T·G]`."""
    K = k.shape[2]
    dtype = q.dtype
    if b.for_cpu:
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    spans_block = split_spans(spans, b, b.keys, q.shape[2] // K)
    logits = jnp.where(
        allowed_mask(spans_block, 0, b.keys), dot(split_keys(k, b), transpose(split_queries(q, b, K))) * scale, -jnp.inf
    )
    if b.for_cpu:
        logits = lax.optimization_barrier(logits)  # two readers: XLA would compute it for each of them
    maximum = logits.max(-2, keepdims=True)
    weights = jnp.exp(logits - jnp.where(maximum == -jnp.inf, 0, maximum))
    total = weights.sum(-2, keepdims=True)
    weights = weights / jnp.where(total == 0, 1, total)
    if b.for_cpu:
        weights = lax.optimization_barrier(weights)
    out = transpose(dot(transpose(split_keys(v, b)), weights.astype(v.dtype)))
    return merge_queries(out, b, *q.shape[:2]).astype(dtype), weights


def _backward(
    b: BlockShape, scale: float, q: Array, k: Array, v: Array, weights: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k and v. `d_x` is the loss's derivative with respect to x."""
    B, T = q.shape[:2]
    S, K = k.shape[1:3]
    dtype = q.dtype
    if b.for_cpu:
        q, k, v, d_out = (x.astype(jnp.float32) for x in (q, k, v, d_out))
    q, d_out, k, v = split_queries(q, b, K), split_queries(d_out, b, K), split_keys(k, b), split_keys(v, b)
    d_weights = dot(v, transpose(d_out))
    d_logits = weights * (d_weights - (weights * d_weights).sum(-2, keepdims=True)) * scale
    d_logits = d_logits.astype(k.dtype)
    d_q = merge_queries(transpose(dot(transpose(k), d_logits)), b, B, T)
    d_k = merge_keys(dot(d_logits, q), B, S)
    d_v = merge_keys(dot(weights.astype(v.dtype), d_out), B, S)
    return d_q.astype(dtype), d_k.astype(dtype), d_v.astype(dtype)
