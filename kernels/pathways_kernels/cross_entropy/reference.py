"""Cross-entropy by its definition, with all logits in memory: every other backend is tested against it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from pathways_kernels.cross_entropy.logits import logits_from_products


def reference(
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
    products = jnp.einsum(
        "...e,ve->...v", hidden, head, preferred_element_type=jnp.float32, precision=lax.Precision.HIGHEST
    )
    if vocab_axis is not None:  # from here on every device computes the same; the mean at the end tells the compiler
        products = lax.all_gather(products, vocab_axis, axis=products.ndim - 1, tiled=True)
    logits = logits_from_products(products, logit_scale, soft_cap)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    results = (log_z - picked, log_z, *((jnp.mean(logits, axis=-1),) if mean_logit else ()))
    return results if vocab_axis is None else lax.pmean(results, vocab_axis)
