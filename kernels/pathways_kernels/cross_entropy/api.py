"""The one entry to cross-entropy; backends register in `IMPLEMENTATIONS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import jax.numpy as jnp
from jax import Array

from pathways_kernels.cross_entropy import chunked, reference

IMPLEMENTATIONS: Final[dict[str, Callable[..., tuple[Array, Array]]]] = {
    "reference": reference.cross_entropy,
    "chunked": chunked.cross_entropy,
}


def cross_entropy(
    hidden: Array,
    head: Array,
    targets: Array,
    *,
    logit_scale: float = 1.0,
    soft_cap: float | None = None,
    vocab_axis: str | None = None,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Negative log-likelihood of each target, and log Z of each token's logits.

    logits = `logit_scale * hidden @ head.T`, soft-capped where `soft_cap` is given. Differentiable in `hidden` and
    `head` through both results; a token whose cotangents are zero contributes nothing (that is how to mask one).

    Args:
      hidden: `[..., E]`, the compute dtype; products are accumulated and everything after is computed in float32.
      head: `[V, E]`, one row per token of the vocabulary, the compute dtype.
      targets: `[...]` int, each in `[0, V)`.
      logit_scale: factor on the products (PaLM: 1 / sqrt(d_model)).
      soft_cap: final logits z become `soft_cap * tanh(z / soft_cap)`.
      vocab_axis: under `shard_map`, the mesh axis over which the vocabulary is spread in equal parts: `head` is this
        device's part `[V / devices, E]`, while `targets` count over the whole and results are those of the whole. All
        arrays must vary over that axis (`jax.lax.pcast`), so that the gradient of `hidden` is summed over it.
      implementation: a key of `IMPLEMENTATIONS`; None takes "chunked".

    Returns:
      loss `[...]` float32 in nats, log_z `[...]` float32.

    Raises:
      ValueError: the shapes do not fit, or there is no such implementation.
    """
    if hidden.ndim < 1 or head.ndim != 2 or hidden.shape[-1] != head.shape[-1] or targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"cross_entropy: hidden {hidden.shape}, head {head.shape}, targets {targets.shape} do not fit; "
            "expected [..., E], [V, E], [...]"
        )
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"cross_entropy: targets are {targets.dtype}; expected integers")
    name = implementation or "chunked"
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"cross_entropy: no implementation {name!r}; there are {', '.join(IMPLEMENTATIONS)}")
    options = {"logit_scale": logit_scale, "soft_cap": soft_cap, "vocab_axis": vocab_axis}
    return IMPLEMENTATIONS[name](hidden, head, targets, **options)
