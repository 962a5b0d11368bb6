"""Cross-entropy written as its definition, with all logits in memory: what the other backends are tested against."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from pathways_kernels.cross_entropy.logits import shape_logits


def cross_entropy(
    hidden: Array, head: Array, targets: Array, *, logit_scale: float, soft_cap: float | None, token_shards: int
) -> tuple[Array, Array]:
    """See `api.cross_entropy`."""
    del token_shards  # it has no chunks
    products = jnp.einsum(
        "...e,ve->...v", hidden, head, preferred_element_type=jnp.float32, precision=lax.Precision.HIGHEST
    )
    logits = shape_logits(products, logit_scale, soft_cap)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return log_z - picked, log_z
