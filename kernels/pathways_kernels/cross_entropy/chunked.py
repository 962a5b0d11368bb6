"""Cross-entropy over chunks of tokens: the logits of one chunk are all that ever exists.

The forward pass keeps the hidden states and log Z; the backward pass computes each chunk's logits again (2 N V E
FLOPs more), turns them into gradients at once and adds the head's up in float32. Pure XLA, for every platform.

`B` product of the leading axes, `T` the last token axis (the one that is cut), `E` embed, `V` vocabulary.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from pathways_kernels.cross_entropy.logits import shape_logits, unshape_gradient
from pathways_kernels.linear import products

CHUNK_TOKENS = 1024
"""Tokens whose logits exist at once, unless one position of all leading axes is more."""


def cross_entropy(
    hidden: Array, head: Array, targets: Array, *, logit_scale: float, soft_cap: float | None
) -> tuple[Array, Array]:
    """See `api.cross_entropy`."""
    *leading, n_embed = hidden.shape
    batch, length = math.prod(leading[:-1]), leading[-1] if leading else 1
    flat_hidden, flat_targets = hidden.reshape(batch, length, n_embed), targets.reshape(batch, length)
    loss, log_z = _cross_entropy(logit_scale, soft_cap, flat_hidden, head, flat_targets)
    return loss.reshape(leading), log_z.reshape(leading)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cross_entropy(
    logit_scale: float, soft_cap: float | None, hidden: Array, head: Array, targets: Array
) -> tuple[Array, Array]:
    return _forward(logit_scale, soft_cap, hidden, head, targets)[0]


def _forward(
    logit_scale: float, soft_cap: float | None, hidden: Array, head: Array, targets: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array, Array]]:
    def step(_: None, chunk: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        h, t = chunk
        logits = _logits(h, head, logit_scale, soft_cap)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, t[..., None], axis=-1)[..., 0]
        return None, (log_z - picked, log_z)

    length = hidden.shape[1]
    _, (loss, log_z) = lax.scan(step, None, (_cut(hidden), _cut(targets)))
    loss, log_z = _join(loss, length), _join(log_z, length)
    return (loss, log_z), (hidden, head, targets, log_z)


def _backward(
    logit_scale: float,
    soft_cap: float | None,
    saved: tuple[Array, Array, Array, Array],
    cotangents: tuple[Array, Array],
) -> tuple[Array, Array, None]:
    hidden, head, targets, log_z = saved
    d_loss, d_log_z = cotangents

    def step(d_head: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        h, t, z, d_l, d_z = chunk
        logits = _logits(h, head, logit_scale, soft_cap)
        # d loss / d logit = softmax - onehot and d log Z / d logit = softmax.
        d_logits = (d_l + d_z)[..., None] * jnp.exp(logits - z[..., None])
        is_target = t[..., None] == jnp.arange(head.shape[0], dtype=t.dtype)
        d_logits = jnp.where(is_target, d_logits - d_l[..., None], d_logits)
        d_products = unshape_gradient(d_logits, logits, logit_scale, soft_cap).astype(hidden.dtype)
        d_head += products.outer_sum(d_products, h, jnp.float32)
        return d_head, products.rows_times(d_products, head).astype(hidden.dtype)

    chunks = (_cut(hidden), _cut(targets), _cut(log_z), _cut(d_loss), _cut(d_log_z))
    d_head, d_hidden = lax.scan(step, jnp.zeros(head.shape, jnp.float32), chunks)
    return _join(d_hidden, hidden.shape[1]), d_head.astype(head.dtype), None


_cross_entropy.defvjp(_forward, _backward)


def _logits(hidden: Array, head: Array, logit_scale: float, soft_cap: float | None) -> Array:
    return shape_logits(products.rows_times_transposed(hidden, head, jnp.float32), logit_scale, soft_cap)


def _cut(x: Array) -> Array:
    """`[B, T, ...] -> [chunks, B, t, ...]`, chunks of one length, the last filled up with zeros.

    The token axis is cut and not a flattened one, so that a batch sharded over devices stays where it is.
    """
    batch, length = x.shape[:2]
    chunks = max(1, -(-length // max(1, CHUNK_TOKENS // max(1, batch))))
    size = -(-length // chunks)
    x = jnp.pad(x, [(0, 0), (0, chunks * size - length)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(batch, chunks, size, *x.shape[2:]), 1, 0)


def _join(x: Array, length: int) -> Array:
    """`[chunks, B, t, ...] -> [B, T, ...]`, the inverse of `_cut`."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
