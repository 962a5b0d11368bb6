"""Compute sample weights in the train step: a method weights the losses of sequences or tokens, or leaves rows out.

`step.py` multiplies the losses by them; `reweighting.py` builds them from a recipe; `methods/` has the rules. They are
not `Batch.loss_weights`, which mark the positions that carry a loss.

Weights of a batch depend on the losses of the whole batch. Where the gradient is of the whole batch at once, one
forward pass gives losses, weights and gradient. Otherwise (microbatches, or rows that are left out) an extra forward
pass computes the losses first; `needs_full_batch_losses` decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pathways_lite.batch import Batch
from pathways_lite.ledger import Clock
from pathways_lite.training.grad_accum import LossFn, Microbatch, per_token_nll

WeighFn = Callable[[Any, Batch, Clock, Any], tuple[jax.Array, Any]]
"""(excess losses [B, T] or what `LookAhead` returns, batch, clock, memory) -> (weights [B, T] or [B, 1], memory)."""

LookAhead = Callable[[LossFn, Any, Batch, jax.Array, int | None], Any]
"""(loss function, parameters, batch, dropout key, microbatch) -> what weights are computed from."""


class MethodState(NamedTuple):
    """The part of the train state that belongs to a method; () in the state where there is nothing."""

    memory: Any = ()  # what weighting learns from step to step
    reference: Any = ()  # parameters of a reference model


class Weighting(NamedTuple):
    """Weights of a batch's samples, with the method's new memory."""

    weights: jax.Array  # float32 [B, T] or [B, 1]
    memory: Any


class Prepared(NamedTuple):
    """What `SampleWeights.prepare` computes before the gradient."""

    microbatch: Microbatch  # the rows to train on
    weighting: Weighting | None  # of the whole batch; None: it is computed together with the gradient
    nll: jax.Array | None = None  # float32 scalar, mean of the whole batch; None: known after the gradient only


def needs_full_batch_losses(rows: int, sequences: int, microbatch: int | None) -> bool:
    """True if losses of the full batch are needed before the gradient: an extra forward pass precedes it."""
    return rows < sequences or microbatch not in (None, sequences)


def stateless(weigh: Callable[[jax.Array, Batch, Clock], jax.Array]) -> WeighFn:
    """Make a `WeighFn` of a rule without memory."""
    return lambda losses, batch, clock, memory: (weigh(losses, batch, clock), memory)


@dataclass(frozen=True)
class SampleWeights:
    """A method that weights samples, as the train step uses it.

    Attributes:
      weigh: computes weights from the excess losses of the batch, or from what `look_ahead` returns.
      statistics: (weights, batch, memory) -> what is logged.
      rows: batch size B -> rows that are trained on: the first of those with a weight above 0.
      reference_fn: losses of a reference model, subtracted before weighting; its parameters are in the method state.
      place: puts a subset of a batch's rows on the devices as a batch is placed.
      look_ahead: computes something other than losses before the gradient, from which `weigh` computes the weights.
    """

    weigh: WeighFn
    statistics: Callable[[jax.Array, Batch, Any], dict[str, jax.Array]]
    rows: Callable[[int], int] = lambda sequences: sequences
    reference_fn: LossFn | None = None
    place: Callable[[Batch], Batch] = lambda batch: batch
    look_ahead: LookAhead | None = None

    def compute(
        self, nll: jax.Array, reference_nll: jax.Array | None, batch: Batch, clock: Clock, memory: Any
    ) -> Weighting:
        """Compute the weights of a whole batch from its per-token losses [B, T], without a gradient through them."""
        excess_loss = jax.lax.stop_gradient(nll if reference_nll is None else nll - reference_nll)
        return Weighting(*self.weigh(excess_loss, batch, clock, memory))

    def prepare(
        self,
        loss_fn: LossFn,
        params: Any,
        method: MethodState,
        batch: Batch,
        key: jax.Array,
        clock: Clock,
        microbatch: int | None,
    ) -> Prepared:
        """Compute what has to be known before the gradient: weights, reference losses, the rows to train on."""
        if self.look_ahead is not None:
            signal = self.look_ahead(loss_fn, params, batch, key, microbatch)
            weighting = Weighting(*self.weigh(signal, batch, clock, method.memory))
            return Prepared(Microbatch(batch, weighting.weights), weighting)
        sequences = batch.tokens.shape[0]
        reference_nll = None
        if self.reference_fn is not None:
            reference_nll = per_token_nll(self.reference_fn, method.reference, batch, key, microbatch)
        if not needs_full_batch_losses(self.rows(sequences), sequences, microbatch):
            return Prepared(Microbatch(batch, reference_nll=reference_nll), None)
        nll = per_token_nll(loss_fn, params, batch, key, microbatch)
        weighting = self.compute(nll, reference_nll, batch, clock, method.memory)
        total = jnp.sum(batch.loss_weights)
        mean_nll = jnp.sum(batch.loss_weights * nll) / jnp.where(total > 0.0, total, 1.0)
        return Prepared(self.select_rows(batch, weighting.weights), weighting, mean_nll)

    def select_rows(self, batch: Batch, weights: jax.Array) -> Microbatch:
        """Select the rows to train on; the mean of their weights per token is 1 again."""
        rows = self.rows(len(batch.tokens))
        if rows == len(batch.tokens):
            return Microbatch(batch, weights)
        row_weights = jnp.sum(batch.loss_weights * weights, axis=1)
        # Rows that are left out weigh 0; in the burn-in all rows weigh something, and the first are taken.
        _, selected = jax.lax.top_k(jnp.float32(row_weights > 0.0), rows)
        selected = jnp.sort(selected)
        part = self.place(jax.tree.map(lambda x: x[selected], batch))
        total = jnp.sum(row_weights[selected])
        scale = jnp.sum(part.loss_weights) / jnp.where(total > 0.0, total, 1.0)
        return Microbatch(part, scale * weights[selected])
