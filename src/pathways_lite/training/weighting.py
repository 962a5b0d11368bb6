"""Where samples get weights in the train step, and which of them it leaves out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pathways_lite.batch import Batch
from pathways_lite.ledger import Clock
from pathways_lite.training.examples import Examples, TokenLosses, losses_of


def is_ahead(rows: int, sequences: int, microbatch: int | None) -> bool:
    """Whether losses have to be known before the gradient of `rows` of a batch: weights are of all of its sequences."""
    return rows < sequences or microbatch not in (None, sequences)


@dataclass(frozen=True)
class SampleWeights:
    """A method that weighs samples, as the train step knows it.

    weigh: losses [B, T] of a whole batch, the batch and the clock -> weights, [B, T] or [B, 1].
    statistics: weights and their batch -> what is logged of them.
    rows: how many rows of a batch of B are trained on: those of the greatest weights.
    reference: losses that are taken off before, of parameters that are the state's `method_state`; None: nothing is.
    place: puts rows that were chosen out of a batch where the rows of a batch lie.
    """

    weigh: Callable[[jax.Array, Batch, Clock], jax.Array]
    statistics: Callable[[jax.Array, Batch], dict[str, jax.Array]]
    rows: Callable[[int], int] = lambda sequences: sequences
    reference: TokenLosses | None = None
    place: Callable[[Batch], Batch] = lambda batch: batch

    def excess(self, losses: jax.Array, reference: jax.Array | None) -> jax.Array:
        """What `weigh` sees of losses."""
        return jax.lax.stop_gradient(losses if reference is None else losses - reference)

    def prepare(
        self,
        token_losses: TokenLosses,
        params: Any,
        method_state: Any,
        batch: Batch,
        key: jax.Array,
        clock: Clock,
        microbatch: int | None,
    ) -> tuple[Examples, dict[str, jax.Array] | None]:
        """What to train on, and the metrics of the whole batch, where a forward pass ahead has told them."""
        sequences = batch.tokens.shape[0]
        reference = None
        if self.reference is not None:
            reference = losses_of(self.reference, method_state, batch, key, microbatch)
        if not is_ahead(self.rows(sequences), sequences, microbatch):
            return Examples(batch, reference=reference), None
        losses = losses_of(token_losses, params, batch, key, microbatch)
        weights = self.weigh(self.excess(losses, reference), batch, clock)
        total = jnp.sum(batch.loss_weights)
        loss = jnp.sum(batch.loss_weights * losses) / jnp.where(total > 0.0, total, 1.0)
        return self.chosen(batch, weights), {"loss": loss, **self.statistics(weights, batch)}

    def chosen(self, batch: Batch, weights: jax.Array) -> Examples:
        """The rows to train on; the mean of their weights per token is 1 again."""
        rows = self.rows(len(batch.tokens))
        if rows == len(batch.tokens):
            return Examples(batch, weights)
        in_all = jnp.sum(batch.loss_weights * weights, axis=1)
        _, found = jax.lax.top_k(in_all, rows)  # of equal weights, as in the burn-in, the first
        found = jnp.sort(found)
        part = self.place(jax.tree.map(lambda x: x[found], batch))
        total = jnp.sum(in_all[found])
        scale = jnp.sum(part.loss_weights) / jnp.where(total > 0.0, total, 1.0)
        return Examples(part, scale * weights[found])
