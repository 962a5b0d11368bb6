"""Cross-entropy over chunks of tokens: only the logits of one chunk exist at a time.

The forward pass keeps the hidden states and log Z; the backward pass computes each chunk's logits again (2 N V E
FLOPs more), turns them into gradients at once, and sums the head's gradient in float32. Pure XLA, for every platform.

On many devices it runs under `shard_map`, each with its own tokens and, with `vocab_axis`, its own shard of the
vocabulary. (GSPMD alone would sum the head's gradient over devices once per chunk.)

`B` product of the leading axes, `T` the last token axis (the one that is split), `E` embed, `V` vocabulary (of this
device).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pathways_kernels.cross_entropy.logits import logits_from_products, products_gradient
from pathways_kernels.linear import products

CHUNK_TOKENS = 1024
"""Tokens whose logits exist at once, unless a single position of all leading axes is more."""

TPU_CHUNK_TOKENS = 4096
"""The same on TPUs: each chunk reads and writes the head's gradient, 8 V E bytes for its 6 V E FLOPs per token, and
a v6e computes 560 FLOPs in the time of a byte."""

TPU_CHUNK_LOGITS = 2**29
"""On TPUs, as many tokens as have this many logits, if that is fewer."""


Reduction = Callable[[Array, Array], tuple[Array, ...]]
"""(logits [..., V] float32, targets [...]) -> log Z, the target's logit (0 if in another shard) and, where asked for,
the sum of the logits, [...] each."""


class CrossEntropyParams(NamedTuple):
    """The static parameters of both passes."""

    logit_scale: float
    soft_cap: float | None
    vocab_axis: str | None
    mean_logit: bool


def chunked(
    hidden: Array,
    head: Array,
    targets: Array,
    *,
    logit_scale: float,
    soft_cap: float | None,
    vocab_axis: str | None,
    mean_logit: bool,
) -> tuple[Array, ...]:
    """See `api.cross_entropy`."""
    *leading, n_embed = hidden.shape
    batch, length = math.prod(leading[:-1]), leading[-1] if leading else 1
    flat_hidden, flat_targets = hidden.reshape(batch, length, n_embed), targets.reshape(batch, length)
    params = CrossEntropyParams(logit_scale, soft_cap, vocab_axis, mean_logit)
    if vocab_axis is not None:
        flat_targets = flat_targets - lax.axis_index(vocab_axis) * head.shape[0]
    return tuple(x.reshape(leading) for x in _cross_entropy(params, flat_hidden, head, flat_targets))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(params: CrossEntropyParams, hidden: Array, head: Array, targets: Array) -> tuple[Array, ...]:
    return _forward(params, hidden, head, targets)[0]


def _forward(
    params: CrossEntropyParams, hidden: Array, head: Array, targets: Array
) -> tuple[tuple[Array, ...], tuple[Array, Array, Array, Array]]:
    def over_chunks(reduce: Reduction, chunk_tokens: int, head: Array, hidden: Array, targets: Array) -> Any:
        def step(_: None, chunk: tuple[Array, Array]) -> tuple[None, tuple[Array, ...]]:
            h, t = chunk
            # Of logits [B t, V]: with few rows B, the TPU compiler tiles a reduction of [B, t, V] up to 3 times slower.
            values = reduce(_logits(h.reshape(-1, h.shape[-1]), head, params), t.reshape(-1))
            return None, tuple(x.reshape(t.shape) for x in values)

        split = functools.partial(_split_chunks, tokens=chunk_tokens)
        _, values = lax.scan(step, None, (split(hidden), split(targets)))
        return tuple(_merge_chunks(x, hidden.shape[1]) for x in values)

    log_z, picked, *sums = _per_platform(
        functools.partial(over_chunks, functools.partial(log_z_and_target, with_sum=params.mean_logit)),
        functools.partial(over_chunks, functools.partial(log_z_and_target_in_one_pass, with_sum=params.mean_logit)),
        head, hidden, targets,
    )  # fmt: skip
    if params.vocab_axis is not None:
        log_z, picked, *sums = _combine_shards(log_z, picked, *sums, axis=params.vocab_axis)
    means = (x / _vocabulary(head, params) for x in sums)
    return (log_z - picked, log_z, *means), (hidden, head, targets, log_z)


def _combine_shards(log_z: Array, *sums: Array, axis: str) -> tuple[Array, ...]:
    """Combine log Z and sums (the target's logit, all logits) of each device's shard into the whole vocabulary's."""
    highest = lax.pmax(log_z, axis)
    log_z = highest + jnp.log(lax.psum(jnp.exp(log_z - highest), axis))
    return log_z, *(lax.psum(x, axis) for x in sums)


def _vocabulary(head: Array, params: CrossEntropyParams) -> int:
    """Return the size of the whole vocabulary."""
    return head.shape[0] * (1 if params.vocab_axis is None else lax.axis_size(params.vocab_axis))


def log_z_and_target(logits: Array, targets: Array, *, with_sum: bool = False) -> tuple[Array, ...]:
    """Reduce by the maximum, then the sum of exponentials; a `Reduction`."""
    in_shard = (targets >= 0) & (targets < logits.shape[-1])
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="clip")[..., 0]
    sums = (jnp.sum(logits, axis=-1),) if with_sum else ()
    return jax.nn.logsumexp(logits, axis=-1), jnp.where(in_shard, picked, 0.0), *sums


def log_z_and_target_in_one_pass(logits: Array, targets: Array, *, with_sum: bool = False) -> tuple[Array, ...]:
    """Reduce in one pass, the online softmax (Milakov & Gimelshein 2018, arXiv:1805.02867, algorithm 3); a `Reduction`.

    XLA's TPU compiler computes it inside the product, so that no logit is written to memory.
    """
    axis = logits.ndim - 1
    is_target = targets[..., None] == lax.broadcasted_iota(targets.dtype, logits.shape, axis)

    def combine(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        highest = jnp.maximum(a[0], b[0])
        total = a[1] * jnp.exp(a[0] - highest) + b[1] * jnp.exp(b[0] - highest)
        return highest, total, *(x + y for x, y in zip(a[2:], b[2:], strict=True))

    added = (jnp.where(is_target, logits, 0.0), *((logits,) if with_sum else ()))
    identity = (jnp.finfo(jnp.float32).min, jnp.float32(0.0), *(jnp.float32(0.0) for _ in added))
    highest, total, *sums = lax.reduce((logits, jnp.ones_like(logits), *added), identity, combine, (axis,))
    return highest + jnp.log(total), *sums


def _backward(
    params: CrossEntropyParams, saved: tuple[Array, Array, Array, Array], cotangents: tuple[Array, ...]
) -> tuple[Array, Array, None]:
    def over_chunks(chunk_tokens: int, head: Array, *per_token: Array) -> tuple[Array, Array]:
        hidden = per_token[0]

        def step(d_head: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
            h, t, z, d_l, d_z, *d_mean = chunk
            logits = _logits(h, head, params)
            # d loss / d logit = softmax - onehot and d log Z / d logit = softmax.
            d_logits = (d_l + d_z)[..., None] * jnp.exp(logits - z[..., None])
            is_target = t[..., None] == jnp.arange(head.shape[0], dtype=t.dtype)
            d_logits = jnp.where(is_target, d_logits - d_l[..., None], d_logits)
            for d_m in d_mean:
                d_logits += d_m[..., None] / _vocabulary(head, params)
            d_products = products_gradient(d_logits, logits, params.logit_scale, params.soft_cap).astype(hidden.dtype)
            d_head += products.matmul_lhs_transposed(d_products, h, jnp.float32)
            return d_head, products.matmul(d_products, head).astype(hidden.dtype)

        # Under `shard_map` it varies over the same mesh axes as the head.
        zeros = jnp.zeros_like(head, jnp.float32)
        d_head, d_hidden = lax.scan(step, zeros, tuple(_split_chunks(x, chunk_tokens) for x in per_token))
        return _merge_chunks(d_hidden, hidden.shape[1]), d_head.astype(head.dtype)

    hidden, head, targets, log_z = saved
    return *_per_platform(over_chunks, over_chunks, head, hidden, targets, log_z, *cotangents), None


_cross_entropy.defvjp(_forward, _backward)


def _per_platform(default: Callable[..., Any], tpu: Callable[..., Any], head: Array, *per_token: Array) -> Any:
    """Run one of two functions of (tokens of a chunk, head, *per_token), chosen while lowering."""
    tpu_tokens = min(TPU_CHUNK_TOKENS, max(1, TPU_CHUNK_LOGITS // head.shape[0]))
    return lax.platform_dependent(
        head, *per_token, tpu=functools.partial(tpu, tpu_tokens), default=functools.partial(default, CHUNK_TOKENS)
    )


def _logits(hidden: Array, head: Array, params: CrossEntropyParams) -> Array:
    return logits_from_products(
        products.matmul_rhs_transposed(hidden, head, jnp.float32), params.logit_scale, params.soft_cap
    )


def _split_chunks(x: Array, tokens: int) -> Array:
    """Split `[B, T, ...] -> [chunks, B, t, ...]`, chunks of one length, B t <= `tokens`; the last is zero-padded.

    It splits the token axis, not a flattened one, so that a batch that GSPMD shards stays where it is.
    """
    batch, length = x.shape[:2]
    chunks = max(1, -(-length // max(1, tokens // max(1, batch))))
    size = -(-length // chunks)
    x = jnp.pad(x, [(0, 0), (0, chunks * size - length)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(batch, chunks, size, *x.shape[2:]), 1, 0)


def _merge_chunks(x: Array, length: int) -> Array:
    """Merge `[chunks, B, t, ...] -> [B, T, ...]`, the inverse of `_split_chunks`."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
