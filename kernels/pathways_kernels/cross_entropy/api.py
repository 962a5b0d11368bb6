"""The one entry to cross-entropy; backends register in `IMPLEMENTATIONS`."""

from __future__ import annotations

import math
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
    token_shards: int = 1,
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
      token_shards: over how many devices the first axes of `hidden` (all but `T` and `E` of `[.., T, E]`) are spread
        by GSPMD. The values do not depend on it. "chunked" then adds the head's gradient up on each shard, as an array
        `[token_shards, V, E]`, and sums it over devices once; with 1, once per chunk. Chunks are of so many times more
        tokens. Under `shard_map`, where every array is one device's, it stays 1.
      implementation: a key of `IMPLEMENTATIONS`; None takes "chunked".

    Returns:
      loss `[...]` float32 in nats, log_z `[...]` float32.

    Raises:
      ValueError: the shapes do not fit, `token_shards` does not divide the product of the first axes, or there is no
        such implementation.
    """
    if hidden.ndim < 1 or head.ndim != 2 or hidden.shape[-1] != head.shape[-1] or targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"cross_entropy: hidden {hidden.shape}, head {head.shape}, targets {targets.shape} do not fit; "
            "expected [..., E], [V, E], [...]"
        )
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"cross_entropy: targets are {targets.dtype}; expected integers")
    rows = math.prod(hidden.shape[:-2])
    if token_shards < 1 or rows % token_shards:
        raise ValueError(f"cross_entropy: {rows} rows of tokens do not divide into token_shards={token_shards}")
    name = implementation or "chunked"
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"cross_entropy: no implementation {name!r}; there are {', '.join(IMPLEMENTATIONS)}")
    options = {"logit_scale": logit_scale, "soft_cap": soft_cap, "token_shards": token_shards}
    return IMPLEMENTATIONS[name](hidden, head, targets, **options)
