"""From the products of queries and keys to the logits, as every backend but the reference computes them."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Form(NamedTuple):
    """How products become logits."""

    scale: float
    soft_cap: float | None

    def logits(self, products: jax.Array, base: float = 2) -> tuple[jax.Array, jax.Array | None]:
        """Logits / ln(base), and the slope of the soft cap (None without one).

        In base 2 an exponential is one multiplication cheaper, on TPUs and GPUs.
        """
        unit = 1 / math.log(base)
        if self.soft_cap is None:
            return products * (self.scale * unit), None
        bend = jnp.tanh(products * (self.scale / self.soft_cap))
        return bend * (self.soft_cap * unit), 1 - bend * bend
