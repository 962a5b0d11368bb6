"""What the backends share: the way from products to logits, and the checkpoint name of a forward pass's results."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

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
