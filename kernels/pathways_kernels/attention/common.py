"""What the backends share: the way from products to logits, the checkpoint name of results, and `vmap`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

CHECKPOINT_NAME = "attention"
"""The name, for policies of `jax.checkpoint`, of what a forward pass saves for the backward pass: the output, and the
log-sum-exp or the weights. If they are saved, the backward pass does not compute attention again."""


class LogitTransform(NamedTuple):
    """The transform from products of queries and keys to logits, in all backends but the reference."""

    scale: float
    soft_cap: float | None

    def logits(self, products: jax.Array, base: float = 2) -> tuple[jax.Array, jax.Array | None]:
        """Return logits / ln(base), and the slope of the soft cap (None without one).

        In base 2 an exponential is one multiplication cheaper, on TPUs and GPUs.
        """
        unit = 1 / math.log(base)
        if self.soft_cap is None:
            return products * (self.scale * unit), None
        capped = jnp.tanh(products * (self.scale / self.soft_cap))
        return capped * (self.soft_cap * unit), 1 - capped * capped


def vmap_by_folding(f: Callable[..., Any]) -> Callable[..., Any]:
    """Make `vmap` of f enlarge the batch, which is the first axis of all arguments and results.

    Pallas would add a dimension to the grid, and Triton allows only three; a foreign function would be called in turn.
    """
    folded = custom_vmap(f)

    @folded.def_vmap
    def rule(size: int, batched: list[bool], *args: jax.Array) -> tuple[Any, Any]:
        args = tuple(
            (x if mapped else jnp.broadcast_to(x, (size, *x.shape))).reshape(-1, *x.shape[1 + mapped :])
            for x, mapped in zip(args, batched, strict=True)
        )
        out = vmap_by_folding(f)(*args)
        split = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), out)
        return split, jax.tree.map(lambda _: True, out)

    return folded
