"""Cross-entropy written as its definition, with all logits in memory: what the other backends are tested against."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from pathways_kernels.cross_entropy.logits import shape_logits


def cross_entropy(
    hidden: Array, head: Array, targets: Array, *, logit_scale: float, soft_cap: float | None, vocab_axis: str | None
) -> tuple[Array, Array]:
    """See `api.cross_entropy`."""
    products = jnp.einsum(
        "...e,ve->...v", hidden, head, preferred_element_type=jnp.float32, precision=lax.Precision.HIGHEST
    )
    if vocab_axis is not None:  # every device computes the same from here on, and says so with a mean
        products = lax.all_gather(products, vocab_axis, axis=products.ndim - 1, tiled=True)
    logits = shape_logits(products, logit_scale, soft_cap)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = log_z - picked
    return (loss, log_z) if vocab_axis is None else lax.pmean((loss, log_z), vocab_axis)
