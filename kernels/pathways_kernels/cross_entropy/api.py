"""The entry point of cross-entropy: check the arguments, choose a backend, call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import jax.numpy as jnp
from jax import Array

from pathways_kernels.cross_entropy.chunked import chunked
from pathways_kernels.cross_entropy.reference import reference

# In order of preference. A new backend is one file, and one line here.
BACKENDS: Final[dict[str, Callable[..., tuple[Array, ...]]]] = {
    "chunked": chunked,
    "reference": reference,
}


def cross_entropy(
    hidden: Array,
    head: Array,
    targets: Array,
    *,
    logit_scale: float = 1.0,
    soft_cap: float | None = None,
    vocab_axis: str | None = None,
    mean_logit: bool = False,
    implementation: str | None = None,
) -> tuple[Array, ...]:
    """Return the negative log-likelihood of each target, and log Z of each token's logits.

    logits = `logit_scale * hidden @ head.T`, soft-capped if `soft_cap` is given. Differentiable in `hidden` and
    `head` through all results; a token whose cotangents are zero contributes nothing, which is how to mask it.

    Args:
      hidden: `[..., E]`, the compute dtype; products are accumulated and everything after is computed in float32.
      head: `[V, E]`, one row per token of the vocabulary, the compute dtype.
      targets: `[...]` int, each in `[0, V)`.
      logit_scale: factor on the products (PaLM: 1 / sqrt(d_model)).
      soft_cap: final logits z become `soft_cap * tanh(z / soft_cap)`.
      vocab_axis: under `shard_map`, the mesh axis over which the vocabulary is sharded evenly: `head` is this device's
        shard `[V / devices, E]`, while `targets` and results are those of the whole vocabulary. All arrays must vary
        over that axis (`jax.lax.pcast`), so that the gradient of `hidden` is summed over it.
      mean_logit: also return the mean of each token's logits over the vocabulary. log Z minus it is the cross-entropy
        with a uniform distribution, which label smoothing adds (Szegedy et al. 2016, arXiv:1512.00567, section 7).
      implementation: the name of a backend; None: the first of `BACKENDS`.

    Returns:
      loss `[...]` float32 in nats, log_z `[...]` float32 and, with `mean_logit`, the mean logit `[...]` float32.

    Raises:
      ValueError: the shapes do not fit, or the implementation is unknown.
    """
    if hidden.ndim < 1 or head.ndim != 2 or hidden.shape[-1] != head.shape[-1] or targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"cross_entropy: hidden {hidden.shape}, head {head.shape}, targets {targets.shape} do not fit; "
            "expected [..., E], [V, E], [...]"
        )
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"cross_entropy: targets are {targets.dtype}; expected integers")
    name = implementation or next(iter(BACKENDS))
    if name not in BACKENDS:
        raise ValueError(f"cross_entropy: no implementation {name!r}; there are {', '.join(BACKENDS)}")
    options = {"logit_scale": logit_scale, "soft_cap": soft_cap, "vocab_axis": vocab_axis, "mean_logit": mean_logit}
    return BACKENDS[name](hidden, head, targets, **options)
