"""Memory-efficient attention in plain XLA: FlashAttention's online softmax over blocks of queries and keys.

Milakov & Gimelshein 2018 (arXiv:1805.02867) for the online softmax; Dao 2023 (arXiv:2307.08691), algorithms 1 and 2,
for the blocks and for the backward pass, which recomputes the weights from each query's saved log-sum-exp, so that
memory grows with T + S and never with T·S.

Scores are transposed, `[keys, queries]`: XLA's CPU backend vectorizes a reduction over a major axis, but not one over
the minor axis. Every product, forward and backward, is then a plain `[m, c] @ [c, n]`, its fast path, after the small
operands (k, v; never the scores) have been transposed. Multi-query attention is one large product instead of H small
ones, and no key or value is repeated: see `blocks` for the layout and the letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from pathways_kernels.attention.blocks import (
    BlockShape,
    BlockSpans,
    accelerator_blocks,
    allowed_mask,
    cpu_blocks,
    dot,
    merge_keys,
    merge_queries,
    split_keys,
    split_queries,
    split_spans,
    transpose,
)
from pathways_kernels.attention.common import CHECKPOINT_NAME, LogitTransform
from pathways_kernels.attention.one_block import MAX_SCORES, one_block
from pathways_kernels.attention.spans import Spans

Array = jax.Array


def chunked(q: Array, k: Array, v: Array, spans: Spans, *, scale: float, logits_soft_cap: float | None = None) -> Array:
    """See `attention`. Memory linear in T and S; key blocks without an allowed pair are skipped at run time.

    If one block holds all scores, `one_block` computes them. Differentiable once, in reverse mode (the loops' bounds
    are data). On a mesh, call it inside `jax.shard_map`: on the CPU it loops over rows of the batch, for which the
    compiler would gather a sharded batch.
    """
    spans = Spans(jnp.asarray(spans.start, jnp.int32), jnp.asarray(spans.stop, jnp.int32))
    if logits_soft_cap is None and q.shape[1] * k.shape[1] <= MAX_SCORES:
        return one_block(q, k, v, spans, scale)
    return _attend(q, k, v, spans, LogitTransform(scale, logits_soft_cap))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: Array, k: Array, v: Array, spans: Spans, transform: LogitTransform) -> Array:
    return _attend_fwd(q, k, v, spans, transform)[0]


def _attend_fwd(q: Array, k: Array, v: Array, spans: Spans, transform: LogitTransform) -> tuple[Array, tuple[Any, ...]]:
    out, lse = checkpoint_name(_per_platform(_forward, transform, q, k, v, spans), CHECKPOINT_NAME)
    return out, (q, k, v, spans, out, lse)


def _attend_bwd(transform: LogitTransform, residuals: tuple[Any, ...], d_out: Array) -> tuple[Array | None, ...]:
    return (*_per_platform(_backward, transform, *residuals, d_out), None)


_attend.defvjp(_attend_fwd, _attend_bwd)


def _per_platform(run: Callable[..., Any], transform: LogitTransform, q: Array, k: Array, *rest: Any) -> Any:
    """Choose the blocks when the program is lowered: a program for a TPU is often compiled on a host without one."""
    B, T, H, _ = q.shape
    cpu, accelerator = (blocks(B, T, k.shape[1], H) for blocks in (cpu_blocks, accelerator_blocks))
    return lax.platform_dependent(
        q, k, *rest, cpu=partial(run, cpu, transform), default=partial(run, accelerator, transform)
    )


def _forward(
    b: BlockShape, transform: LogitTransform, q: Array, k: Array, v: Array, spans: Spans
) -> tuple[Array, Array]:
    """Return the output `[B, T, H, D]` and every query's log-sum-exp `[B, T, H]` (0 if it sees nothing)."""
    B, T, H, _ = q.shape
    S, K = k.shape[1:3]
    dtype = q.dtype
    if b.for_cpu:
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))

    def rows(x: tuple[Array, Array, Array, BlockSpans]) -> tuple[Array, Array]:
        qs, ks, vts, spans_block = x

        def query_block(x: tuple[Array, BlockSpans]) -> tuple[Array, Array]:
            q, spans_block = x

            def key_block(j: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                maximum, total, acc = carry
                logits, _ = transform.logits(dot(ks[j], transpose(q)), math.e)  # [R, K, Sc, M]
                logits = jnp.where(allowed_mask(spans_block, j, b.keys), logits, -jnp.inf)
                if b.for_cpu:
                    logits = lax.optimization_barrier(logits)  # two readers: XLA would compute it for each of them
                new_maximum = jnp.maximum(maximum, logits.max(-2, keepdims=True))
                finite = jnp.where(new_maximum == -jnp.inf, 0, new_maximum)
                weights = jnp.exp(logits - finite)
                rescale = jnp.exp(maximum - finite)
                total = total * rescale + weights.sum(-2, keepdims=True)
                return new_maximum, total, acc * rescale + dot(vts[j], weights.astype(v.dtype))

            zero = _float_zeros_like(transpose(q))
            row = zero[..., :1, :]
            maximum, total, acc = _loop(spans_block, len(ks), key_block, (row - jnp.inf, row, zero))
            denominator = jnp.where(total == 0, 1, total)
            lse = jnp.where(total == 0, 0, maximum + jnp.log(denominator))
            return transpose(acc / denominator).astype(dtype), lse[..., 0, :]

        return lax.map(query_block, (qs, spans_block))

    blocks = (split_queries(q, b, K), split_keys(k, b), transpose(split_keys(v, b)), split_spans(spans, b, S, H // K))
    out, lse = lax.map(rows, blocks)
    return merge_queries(out, b, B, T), merge_queries(lse, b, B, T)


def _backward(
    b: BlockShape,
    transform: LogitTransform,
    q: Array,
    k: Array,
    v: Array,
    spans: Spans,
    out: Array,
    lse: Array,
    d_out: Array,
) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k and v. `d_x` is the loss's derivative with respect to x."""
    B, T, H, _ = q.shape
    S, K = k.shape[1:3]
    dtypes = q.dtype, k.dtype, v.dtype
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1)
    if b.for_cpu:
        q, k, v, d_out = (x.astype(jnp.float32) for x in (q, k, v, d_out))

    def rows(x: tuple[Any, Array, Array, Array]) -> tuple[Array, Array, Array]:
        queries, ks, kts, vs = x

        def query_block(carry: tuple[Array, Array], x: Any) -> tuple[tuple[Array, Array], Array]:
            q, d_out, lse, delta, spans_block = x

            def key_block(j: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                d_qt, d_ks, d_vs = carry
                logits, slope = transform.logits(dot(ks[j], transpose(q)), math.e)
                weights = jnp.where(allowed_mask(spans_block, j, b.keys), jnp.exp(logits - lse), 0)
                if b.for_cpu:
                    weights = lax.optimization_barrier(weights)  # two readers, as in the forward pass
                d_logits = weights * (dot(vs[j], transpose(d_out)) - delta)
                if slope is not None:
                    d_logits *= slope
                d_logits = d_logits.astype(k.dtype)
                d_ks = d_ks.at[j].add(dot(d_logits, q))
                d_vs = d_vs.at[j].add(dot(weights.astype(d_out.dtype), d_out))
                return d_qt + dot(kts[j], d_logits), d_ks, d_vs

            d_qt, d_ks, d_vs = _loop(spans_block, len(ks), key_block, (_float_zeros_like(transpose(q)), *carry))
            return (d_ks, d_vs), transpose(d_qt)

        (d_ks, d_vs), d_qs = lax.scan(query_block, (_float_zeros_like(ks), _float_zeros_like(vs)), queries)
        return d_qs, d_ks, d_vs

    ks = split_keys(k, b)
    per_query = (split_queries(x, b, K) for x in (q, d_out))
    per_row = (split_queries(x, b, K)[..., None, :] for x in (lse, delta))
    queries = (*per_query, *per_row, split_spans(spans, b, S, H // K))
    d_q, d_k, d_v = lax.map(rows, (queries, ks, transpose(ks), split_keys(v, b)))
    d_q, d_k = merge_queries(d_q, b, B, T) * transform.scale, merge_keys(d_k, B, S) * transform.scale
    return d_q.astype(dtypes[0]), d_k.astype(dtypes[1]), merge_keys(d_v, B, S).astype(dtypes[2])


def _loop(spans_block: BlockSpans, n_blocks: int, body: Callable[[Any, Any], Any], carry: Any) -> Any:
    """Loop over the key blocks that a block of queries sees; straight-line code if there is only one."""
    return body(0, carry) if n_blocks == 1 else lax.fori_loop(spans_block.first, spans_block.last, body, carry)


def _float_zeros_like(x: Array) -> Array:
    return jnp.zeros_like(x, jnp.float32)
