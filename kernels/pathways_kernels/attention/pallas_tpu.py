"""FlashAttention-2 (Dao 2023, arXiv:2307.08691) over spans, in Pallas for TPUs.

One program of the grid holds a block of queries, of all query heads that share a key head or as many as fit, and the
keys and values of its row and key head in vector memory: they are read once per head, not once per block of queries. It
loops over the blocks of keys that its queries see; `block_ranges` computes these from the spans, and scalar prefetch
loads them. Full blocks, in which all queries see all keys, need no mask and are processed several at a time in
straight-line code, so that the matrix unit and the vector unit work at the same time.

The backward kernel visits the same blocks, recomputes the weights from the log-sum-exp, and has three accumulators in
vector memory: the gradient of its queries, and those of all keys and values of the segment. So one pass of five
products gives all three gradients without partial results in main memory, and the gradients of grouped heads are summed
in place. It needs no transposed spans.

If the keys do not fit into vector memory they are split into segments: the forward kernel processes them one after the
other, the backward kernel is called for each.

Letters: B batch, T queries, Tc per block, S keys, Ss per segment, Sc per block, H heads, K key heads, G heads per
block, P head groups (P · G = H; P is a multiple of K), D head dim. In the kernels T, S and D are padded and heads come
first.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pathways_kernels.attention import block_sizes as sizing
from pathways_kernels.attention.block_ranges import key_block_ranges, padded_spans
from pathways_kernels.attention.block_sizes import BlockSizes, Limits
from pathways_kernels.attention.common import CHECKPOINT_NAME, LogitTransform
from pathways_kernels.attention.pallas_tpu_backward import backward
from pathways_kernels.attention.pallas_tpu_forward import forward
from pathways_kernels.attention.pallas_tpu_parts import SpanBounds
from pathways_kernels.attention.spans import Spans
from pathways_kernels.attention.static_kinds import SpanKind, static_kind

Array = jax.Array


class _Settings(NamedTuple):
    transform: LogitTransform
    kind: SpanKind | None
    n_keys: int
    forward: BlockSizes
    backward: BlockSizes
    interpret: Any


def pallas_tpu(
    q: Array,
    k: Array,
    v: Array,
    spans: Spans,
    *,
    scale: float,
    logits_soft_cap: float | None = None,
    limits: tuple[Limits, Limits] | None = None,
    interpret: Any = False,
) -> Array:
    """See `attention`. Memory linear in T and S. Differentiable once, in reverse mode.

    Args:
        limits: of the block sizes of the forward and backward kernel; None: those of the chip that is compiled for.
        interpret: run in Pallas's interpreter (True, or `pltpu.InterpretParams`); for tests.
    """
    B, T, H, D = q.shape
    S, K = k.shape[1:3]
    T_pad, S_pad = sizing.padded_length(T), sizing.padded_length(S)
    D_pad = 64 if D <= 64 else -(-D // 128) * 128
    chip, vmem = sizing.chip()
    limits = limits or sizing.limits(chip, D)
    G = max(g for g in range(1, H // K + 1) if (H // K) % g == 0 and (g == 1 or g * 128 <= min(x.rows for x in limits)))

    item = q.dtype.itemsize
    # Twice the arrays that are pipelined, once the scratch arrays.
    key_bytes = D_pad * 4 * item, D_pad * (4 * item + 2 * 4 + 4 * (item if G == H // K else 4))
    row_bytes = D_pad * (4 * item + 4) + 4 * 2 * 128, D_pad * (6 * item + 4)
    sizes = [
        sizing.block_sizes(limit, vmem, G, T_pad, S_pad, *per)
        for limit, per in zip(limits, zip(key_bytes, row_bytes, strict=True), strict=True)
    ]

    # The backward kernel shifts the spans of each segment, and shifted spans have no static kind.
    kind = static_kind(spans, S) if sizes[1].segment == S_pad else None
    with jax.ensure_compile_time_eval() if kind is not None else nullcontext():
        spans = padded_spans(spans, S, T_pad)
        ranges = [key_block_ranges(spans, x.queries, x.keys) for x in sizes]
    bounds = jnp.stack([spans.start, spans.stop, *[spans.stop] * 6], axis=1) if kind is None else None
    queries = _pad(q, T_pad, D_pad).reshape(B, T_pad, H // G, G, D_pad).transpose(0, 2, 3, 1, 4)
    keys, values = (_pad(x, S_pad, D_pad).swapaxes(1, 2) for x in (k, v))
    settings = _Settings(LogitTransform(scale, logits_soft_cap), kind, S, sizes[0], sizes[1], interpret)
    out = _attend(settings, queries, keys, values, bounds, *ranges)
    return out.transpose(0, 3, 1, 2, 4).reshape(B, T_pad, H, D_pad)[:, :T, :, :D]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(settings: _Settings, q: Array, k: Array, v: Array, bounds: Array | None, ranges: Array, _: Array) -> Array:
    return _run_forward(settings, q, k, v, bounds, ranges)[0]


def _run_forward(
    settings: _Settings, q: Array, k: Array, v: Array, bounds: Array | None, ranges: Array
) -> tuple[Array, Array]:
    span_bounds = SpanBounds(bounds, settings.kind, settings.n_keys)
    return forward(
        q, k, v, span_bounds, ranges, transform=settings.transform, sizes=settings.forward, interpret=settings.interpret
    )


def _attend_fwd(
    settings: _Settings, q: Array, k: Array, v: Array, bounds: Array | None, ranges: Array, backward_ranges: Array
) -> tuple[Array, tuple[Array | None, ...]]:
    out, lse = checkpoint_name(_run_forward(settings, q, k, v, bounds, ranges), CHECKPOINT_NAME)
    return out, (q, k, v, bounds, backward_ranges, out, lse)


def _attend_bwd(settings: _Settings, residuals: tuple[Any, ...], d_out: Array) -> tuple[Array | None, ...]:
    q, k, v, bounds, ranges, out, lse = residuals
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1)
    B, K, S, D = k.shape
    sizes = settings.backward
    segments = S // sizes.segment

    def run_segment(d_q: Any, segment: tuple[Any, ...]) -> tuple[Array, tuple[Array, Array]]:
        i, k, v = segment
        n = sizes.segment // sizes.keys
        shifted = None if bounds is None else bounds - i * sizes.segment
        span_bounds = SpanBounds(shifted, settings.kind, settings.n_keys)
        d_q_segment, d_k, d_v = backward(
            q, k, v, span_bounds, jnp.clip(ranges - i * n, 0, n), lse, delta, d_out,
            transform=settings.transform, sizes=sizes, partial_keys=segments > 1, interpret=settings.interpret,
        )  # fmt: skip
        return d_q + d_q_segment, (d_k, d_v)

    if segments == 1:
        d_q, (d_k, d_v) = run_segment(0, (0, k, v))
    else:
        split = (jnp.moveaxis(x.reshape(B, K, segments, sizes.segment, D), 2, 0) for x in (k, v))
        zero = jnp.zeros(q.shape, jnp.float32)
        d_q, d_kv = jax.lax.scan(run_segment, zero, (jnp.arange(segments), *split))
        d_k, d_v = (jnp.moveaxis(x, 0, 2).reshape(B, -1, S, D) for x in d_kv)
    # Sum over the groups of query heads that share a key head.
    d_k, d_v = (x.reshape(B, K, -1, S, D).sum(2, dtype=x.dtype).astype(k.dtype) for x in (d_k, d_v))
    return d_q.astype(q.dtype), d_k, d_v, None, None, None


_attend.defvjp(_attend_fwd, _attend_bwd)


def _pad(x: Array, length: int, head_dim: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0), (0, head_dim - x.shape[3])))
