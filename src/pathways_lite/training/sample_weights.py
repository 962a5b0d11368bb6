"""Compute sample weights in the train step: a method weights the losses of sequences or tokens, or leaves rows out.

`step.py` multiplies the losses by them; `build_sample_weights.py` builds them from a recipe; `methods/` has the rules.
They are not `Batch.loss_weights`, which mark the positions that carry a loss.

Weights of a batch depend on the losses of the whole batch. Where the gradient is of the whole batch at once, one
forward pass gives losses, weights and gradient. Otherwise (microbatches, or rows that are left out) an extra forward
pass computes the losses first; `methods.reweighting.needs_full_batch_losses` decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pathways_lite.batch import Batch
from pathways_lite.ledger import Clock
from pathways_lite.methods.domain_weights import means_of_domains, share_of_domains, token_weights
from pathways_lite.methods.reweighting import needs_full_batch_losses
from pathways_lite.models import LossFn
from pathways_lite.training.grad_accum import Microbatch, accumulate_gradients, per_token_nll

WeighFn = Callable[[Any, Batch, Clock, Any], tuple[jax.Array, Any]]
"""(excess losses [B, T] or what `SignalFn` returns, batch, clock, memory) -> (weights [B, T] or [B, 1], memory)."""

SignalFn = Callable[[LossFn, Any, Batch, jax.Array, int | None], Any]
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


def stateless(weigh: Callable[[jax.Array, Batch, Clock], jax.Array]) -> WeighFn:
    """Make a `WeighFn` of a rule without memory."""
    return lambda losses, batch, clock, memory: (weigh(losses, batch, clock), memory)


@dataclass(frozen=True)
class SampleWeights:
    """A method that weights samples, as the train step uses it.

    Attributes:
      weigh: computes weights from the excess losses of the batch, or from what `signal_fn` returns.
      statistics: (weights, batch, memory) -> what is logged.
      rows: batch size B -> rows that are trained on: the first of those with a weight above 0.
      reference_fn: losses of a reference model, subtracted before weighting; its parameters are in the method state.
      place: puts a subset of a batch's rows on the devices as a batch is placed.
      signal_fn: computes something other than losses before the gradient, from which `weigh` computes the weights.
    """

    weigh: WeighFn
    statistics: Callable[[jax.Array, Batch, Any], dict[str, jax.Array]]
    rows: Callable[[int], int] = lambda sequences: sequences
    reference_fn: LossFn | None = None
    place: Callable[[Batch], Batch] = lambda batch: batch
    signal_fn: SignalFn | None = None

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
        if self.signal_fn is not None:
            signal = self.signal_fn(loss_fn, params, batch, key, microbatch)
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


# ---- DoGE: how far each domain's gradient points along the target's, by two forward passes ----

DISTANCE = 0.01
"""Norm of the displacement of all parameters, as in DARTS (Liu et al. 2019, arXiv 1806.09055, equation 8)."""


def domain_alignments(
    loss_fn: LossFn,
    params: Any,
    batch: Batch,
    key: jax.Array,
    microbatch: int | None,
    *,
    target: np.ndarray,
) -> tuple[jax.Array, jax.Array]:
    """Compute <grad L_j, h> / |h| of each of D domains, float32 [D], and whether it is defined, bool [D].

    h is the gradient of sum_j target_j L_j. L_j is the mean loss of domain j: for h on one half of the batch, otherwise
    on the other half. With the same rows on both sides the noise of a domain's gradient would count as aligned with
    itself.

    It is a central difference, (L_j(params + v) - L_j(params - v)) / 2 |v|, with v a short step along h; its error is
    of the order of |v|^2. Forward-mode differentiation would need as many FLOPs, and kernels with their own backward
    pass have none. One gradient per domain would be exact, but takes D backward passes and D times the memory, or
    slices that hold one domain each, which no mixture guarantees. Two forward passes suffice for any batch, slices and
    mesh.
    """
    first, second = split_halves(batch, key, len(target))
    share = share_of_domains(first, len(target))
    total = jnp.sum(first.loss_weights)
    total = jnp.where(total > 0.0, total, 1.0)

    def target_loss(params: Any, part: Microbatch, key: jax.Array) -> jax.Array:
        nll = loss_fn(params, part.batch, key).nll
        return jnp.sum(part.batch.loss_weights * part.weights * nll) / total

    def gradient_fn(params: Any, part: Microbatch, key: jax.Array) -> tuple[Any, tuple[()]]:
        return jax.grad(target_loss)(params, part, key), ()

    weighted = Microbatch(first, token_weights(jnp.asarray(target), share, first))
    direction, _ = accumulate_gradients(gradient_fn, params, weighted, key, microbatch)
    norm = optax.tree.norm(direction)
    length = DISTANCE / jnp.where(norm > 0.0, norm, 1.0)

    def losses_at(sign: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = jax.tree.map(lambda p, h: p + sign * length * h, params, direction)
        return means_of_domains(per_token_nll(loss_fn, moved, batch, key, microbatch), second, len(target))

    (ahead, behind), (tokens, _) = jax.lax.map(losses_at, jnp.asarray([1.0, -1.0]))  # compiled once
    return (ahead - behind) / (2.0 * DISTANCE), (tokens > 0.0) & (jnp.sum(target * share) > 0.0)


def split_halves(batch: Batch, key: jax.Array, domains: int) -> tuple[Batch, Batch]:
    """Split the loss of a batch by rows into two batches: each domain's rows alternate, the first at random."""
    earlier = jnp.sum(jnp.tril(batch.domain[:, None] == batch.domain[None, :], -1), axis=1)
    offset = jax.random.randint(key, (domains,), 0, 2)
    in_first = ((earlier + offset[batch.domain]) % 2 == 0)[:, None]
    only = lambda rows: batch._replace(loss_weights=jnp.where(rows, batch.loss_weights, 0.0))  # noqa: E731
    return only(in_first), only(~in_first)
