"""From the products hidden · head to the logits, and back; every backend shares it."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def shape_logits(products: Array, logit_scale: float, soft_cap: float | None) -> Array:
    """`z = logit_scale * products`, then `cap * tanh(z / cap)` with a soft cap (Gemma 2, arXiv 2408.00118, 2.2)."""
    z = products * logit_scale
    return z if soft_cap is None else soft_cap * jnp.tanh(z / soft_cap)


def unshape_gradient(d_logits: Array, logits: Array, logit_scale: float, soft_cap: float | None) -> Array:
    """The gradient at the products from the gradient at the logits `shape_logits` gave."""
    if soft_cap is not None:
        d_logits = d_logits * (1.0 - jnp.square(logits / soft_cap))
    return d_logits * logit_scale
