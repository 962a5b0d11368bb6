"""Where samples get weights in the train step, and which of them it leaves out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pathways_lite.batch import Batch
from pathways_lite.ledger import Clock
from pathways_lite.training.grad_accum import Microbatch, TokenLosses, per_token_losses

Weigh = Callable[[Any, Batch, Clock, Any], tuple[jax.Array, Any]]
"""What is known of a whole batch (losses [B, T], say), the batch, the clock, the memory -> weights, [B, T] or [B, 1],
and the memory afterwards."""

LookAhead = Callable[[TokenLosses, Any, Batch, jax.Array, int | None], Any]
"""(token losses, parameters, batch, dropout key, microbatch) -> what weights are found by."""


class MethodState(NamedTuple):
    """What weighing keeps in the train state, which has () where it keeps nothing."""

    memory: Any = ()  # what is learned from step to step
    reference: Any = ()  # parameters of another model


def needs_full_batch_losses(rows: int, sequences: int, microbatch: int | None) -> bool:
    """Whether losses have to be known before the gradient of `rows` of a batch: weights are of all of its sequences."""
    return rows < sequences or microbatch not in (None, sequences)


def stateless(weigh: Callable[[jax.Array, Batch, Clock], jax.Array]) -> Weigh:
    """Weights that are found anew in every step."""
    return lambda losses, batch, clock, memory: (weigh(losses, batch, clock), memory)


@dataclass(frozen=True)
class SampleWeights:
    """A method that weighs samples, as the train step knows it.

    weigh: finds weights by the losses of the batch, or by what `look_ahead` returns, where it is given.
    statistics: weights, their batch and the memory -> what is logged of them.
    rows: how many rows of a batch of B are trained on: the first of those that weigh anything.
    reference: losses that are taken off before, of parameters in the method's state; None: nothing is.
    place: puts rows that were chosen out of a batch where the rows of a batch lie.
    """

    weigh: Weigh
    statistics: Callable[[jax.Array, Batch, Any], dict[str, jax.Array]]
    rows: Callable[[int], int] = lambda sequences: sequences
    reference: TokenLosses | None = None
    place: Callable[[Batch], Batch] = lambda batch: batch
    look_ahead: LookAhead | None = None

    def excess_loss(self, losses: jax.Array, reference: jax.Array | None) -> jax.Array:
        """What `weigh` sees of losses."""
        return jax.lax.stop_gradient(losses if reference is None else losses - reference)

    def prepare(
        self,
        token_losses: TokenLosses,
        params: Any,
        method: MethodState,
        batch: Batch,
        key: jax.Array,
        clock: Clock,
        microbatch: int | None,
    ) -> tuple[Microbatch, dict[str, jax.Array] | None, Any]:
        """What to train on; metrics of the whole batch and the memory, where weights have been found ahead."""
        if self.look_ahead is not None:
            seen = self.look_ahead(token_losses, params, batch, key, microbatch)
            weights, memory = self.weigh(seen, batch, clock, method.memory)
            return Microbatch(batch, weights), self.statistics(weights, batch, memory), memory
        sequences = batch.tokens.shape[0]
        reference = None
        if self.reference is not None:
            reference = per_token_losses(self.reference, method.reference, batch, key, microbatch)
        if not needs_full_batch_losses(self.rows(sequences), sequences, microbatch):
            return Microbatch(batch, reference=reference), None, None
        losses = per_token_losses(token_losses, params, batch, key, microbatch)
        weights, memory = self.weigh(self.excess_loss(losses, reference), batch, clock, method.memory)
        total = jnp.sum(batch.loss_weights)
        loss = jnp.sum(batch.loss_weights * losses) / jnp.where(total > 0.0, total, 1.0)
        return self.select_rows(batch, weights), {"loss": loss, **self.statistics(weights, batch, memory)}, memory

    def select_rows(self, batch: Batch, weights: jax.Array) -> Microbatch:
        """The rows to train on; the mean of their weights per token is 1 again."""
        rows = self.rows(len(batch.tokens))
        if rows == len(batch.tokens):
            return Microbatch(batch, weights)
        in_all = jnp.sum(batch.loss_weights * weights, axis=1)
        # Rows that are not to be trained on weigh nothing; in the burn-in all do, and the first are taken.
        _, found = jax.lax.top_k(jnp.float32(in_all > 0.0), rows)
        found = jnp.sort(found)
        part = self.place(jax.tree.map(lambda x: x[found], batch))
        total = jnp.sum(in_all[found])
        scale = jnp.sum(part.loss_weights) / jnp.where(total > 0.0, total, 1.0)
        return Microbatch(part, scale * weights[found])
