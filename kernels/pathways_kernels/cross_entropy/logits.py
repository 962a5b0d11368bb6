"""From the products hidden · head to the logits, and the gradient back, in all backends."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def logits_from_products(products: Array, logit_scale: float, soft_cap: float | None) -> Array:
    """Return `z = logit_scale * products`, or `cap * tanh(z / cap)` with a soft cap (Gemma 2, arXiv 2408.00118)."""
    z = products * logit_scale
    return z if soft_cap is None else soft_cap * jnp.tanh(z / soft_cap)


def products_gradient(d_logits: Array, logits: Array, logit_scale: float, soft_cap: float | None) -> Array:
    """Return the gradient of the products, given the logits and their gradient."""
    if soft_cap is not None:
        d_logits = d_logits * (1.0 - jnp.square(logits / soft_cap))
    return d_logits * logit_scale
