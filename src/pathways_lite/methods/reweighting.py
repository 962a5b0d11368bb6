"""Losses of a batch -> weights of its samples. All of it is pure, and sees the batch as a whole.

Sow et al. 2025 (arXiv 2502.06733): losses are brought to [-1, 1] by the batch's own range, a rule makes scores of
them, between 0 and 1, and a softmax of the scores the weights. Here a weight is scaled so that the mean over all tokens
that carry loss is 1, which for rows of equal length is the batch size times the softmax.

A sample is a row, a document or a token. Rows have arrays `[B, 1]` here, and the other two `[B, T]`: a document's loss
stands at each of its tokens, and with each goes that token's share of its size; sums and extremes over tokens are then
those over documents. Sums over a batch that is spread over devices are global, by `jax.jit`'s meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.ledger import Clock, Timeline
from pathways_lite.recipe import Extremes, Focal, LinUpper, Quadratic, Reweighting, TopLosses, Uniform, Upper

FLATTEST = 1e-6
"""Nats: a batch whose losses lie closer together is taken for one of this range."""

EDGES = (0.03125, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0)
"""Of the histogram of weights: the first bin is below the first edge, the last above the last."""


class Samples(NamedTuple):
    """What is weighed; float32, `[B, 1]` or `[B, T]`."""

    loss: jax.Array  # mean over the sample's tokens, by their loss weights
    size: jax.Array  # sum of the loss weights; 0 where there is no sample


def samples(losses: jax.Array, batch: Batch, kind: str) -> Samples:
    """`losses` `[B, T]` of the batch's tokens as losses of its samples."""
    size = batch.loss_weights
    if kind == "token":
        return Samples(losses, size)
    if kind == "row":
        total = jnp.sum(size, axis=1, keepdims=True)
        return Samples(jnp.sum(size * losses, axis=1, keepdims=True) / jnp.where(total > 0, total, 1.0), total)
    # A document is what begins at the same place: the first key that its queries see.
    rows = jnp.arange(losses.shape[0])[:, None]
    sums = jnp.zeros((2, *losses.shape), losses.dtype)
    sums = sums.at[:, rows, batch.spans.start].add(jnp.stack([size * losses, size]))
    loss, total = sums[:, rows, batch.spans.start]
    return Samples(loss / jnp.where(total > 0, total, 1.0), size)


def in_range(found: Samples) -> jax.Array:
    """h: losses brought to [-1, 1] by the smallest and the largest of the batch."""
    there = found.size > 0
    low = jnp.min(found.loss, where=there, initial=jnp.inf)
    high = jnp.max(found.loss, where=there, initial=-jnp.inf)
    return (2.0 * found.loss - (high + low)) / jnp.maximum(high - low, FLATTEST)


def score(rule: LinUpper | Upper | Quadratic | Extremes, h: jax.Array) -> jax.Array:
    """f(h), from 0 to 1."""
    match rule:
        case LinUpper():
            return jnp.minimum(h + 1.0, 1.0)
        case Upper():
            return (h + 1.0) / 2.0
        case Quadratic():
            return 1.0 - jnp.square(h)
        case Extremes():
            return jnp.abs(h)


def softmax_weights(scores: jax.Array, size: jax.Array, temperature: Any) -> jax.Array:
    """The softmax of `scores` / `temperature` over samples of the given sizes, scaled to a mean of 1 per token."""
    highest = jnp.max(scores, where=size > 0, initial=-jnp.inf)
    return normalize_weights(jnp.exp((scores - highest) / temperature), size)


def normalize_weights(weights: jax.Array, size: jax.Array) -> jax.Array:
    """Weights with a mean of 1 per token; all 1 where none is above 0. What has no size has no weight."""
    weights = jnp.where(size > 0, weights, 0.0)
    total = jnp.sum(size * weights)
    return jnp.where(total == 0.0, 1.0, weights * (jnp.sum(size) / jnp.where(total == 0.0, 1.0, total)))


def top(found: Samples, share: float) -> jax.Array:
    """1 for the `share` of all samples (of tokens, where these are documents) whose loss is highest, 0 for the rest."""
    there = found.size > 0
    ascending = jnp.sort(jnp.where(there, found.loss, -jnp.inf), axis=None)
    count = jnp.maximum(1, jnp.round(share * jnp.sum(there)).astype(jnp.int32))
    return jnp.where(found.loss >= ascending[ascending.size - count], 1.0, 0.0)


def weigh(reweighting: Reweighting, losses: jax.Array, batch: Batch, temperature: Any = 1.0) -> jax.Array:
    """The weight of every token `[B, T]`, or of every row `[B, 1]`; no gradient flows through it.

    Args:
      losses: float32 `[B, T]`, of the whole batch; with a reference, what they exceed its losses by.
      temperature: r; for rules that have one.
    """
    found = samples(jax.lax.stop_gradient(losses), batch, reweighting.sample)
    match reweighting.rule:
        case Uniform():
            return jnp.ones_like(found.loss)
        case Focal(gamma=gamma):
            # A loss that is below the reference's would be a probability above 1.
            return normalize_weights((1.0 - jnp.exp(-jnp.maximum(found.loss, 0.0))) ** gamma, found.size)
        case TopLosses(fraction=share):
            return normalize_weights(top(found, share), found.size)
        case rule:
            return softmax_weights(score(rule, in_range(found)), found.size, temperature)


DomainFactors = Callable[[Batch, Clock], jax.Array]
"""(batch, clock) -> weights of its rows by their domains, float32 [B, 1]."""


def domain_factors(first_steps: Sequence[int], table: np.ndarray) -> DomainFactors:
    """Weights from a `table` [phases, domains] whose phases begin at `first_steps`."""
    starts, rows = np.asarray(first_steps, np.int32), np.asarray(table, np.float32)

    def weights(batch: Batch, clock: Clock) -> jax.Array:
        phase = jnp.sum(clock.step >= starts) - 1
        return jnp.asarray(rows)[phase, batch.domain][:, None]

    return weights


def weights_by_clock(
    reweighting: Reweighting, timeline: Timeline, domains: DomainFactors | None = None
) -> Callable[[jax.Array, Batch, Clock], jax.Array]:
    """`weigh` with the stage's clock: all weights are 1 during the burn-in, and the temperature follows its line.

    With weights of `domains`, their products.
    """
    begin = timeline.steps_for(reweighting.burn_in)
    first = timeline.progress(begin)
    initial = getattr(reweighting.rule, "temperature", 1.0)
    final = getattr(reweighting.rule, "final_temperature", None) or initial

    def weights(losses: jax.Array, batch: Batch, clock: Clock) -> jax.Array:
        along = jnp.clip((clock.progress - first) / max(1.0 - first, FLATTEST), 0.0, 1.0)
        found = weigh(reweighting, losses, batch, initial + (final - initial) * along)
        found = jnp.where(clock.step < begin, 1.0, found)
        return found if domains is None else found * domains(batch, clock)

    return weights


def statistics(weights: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """What is logged of a batch's weights, float32, all with B rows as the unit where there is one.

    `weight_entropy`: nats, log B where all weights are 1. `effective_batch_size`: (sum w)^2 / sum w^2, Kish's, in rows.
    `weight_histogram`: the share of tokens in each bin of `EDGES`. `row_weights`, `row_domains` `[B]`.
    """
    size = batch.loss_weights
    weights = jnp.broadcast_to(weights, size.shape)
    rows = size.shape[0]
    mean = lambda values: jnp.sum(size * values) / jnp.maximum(jnp.sum(size), FLATTEST)  # noqa: E731
    above = jnp.stack([jnp.ones(()), *(mean(weights > edge) for edge in EDGES), jnp.zeros(())])
    relative = weights / jnp.maximum(mean(weights), FLATTEST)  # weights of domains need not have a mean of 1
    logarithm = jnp.log(jnp.where(relative > 0, relative, 1.0))
    return {
        "weight_entropy": jnp.log(rows) - mean(relative * logarithm),
        "effective_batch_size": rows / jnp.maximum(mean(jnp.square(relative)), FLATTEST),
        "weight_histogram": above[:-1] - above[1:],
        "row_weights": jnp.sum(size * weights, axis=1) / jnp.maximum(jnp.sum(size, axis=1), FLATTEST),
        "row_domains": batch.domain,
    }


def extra_flops(reweighting: Reweighting, training: int, reference: int, ahead: bool) -> int:
    """FLOPs per token of the batch that weights change: rows that are left out, and forward passes beside the step's.

    Args:
      training: of training on a token, forward and backward (a third is the forward pass).
      reference: of training the reference on a token; 0 without one.
      ahead: whether losses are computed before the step, as they are for slices and for rows that are left out.
    """
    backward_left_out = round((1.0 - reweighting.kept_fraction) * training)
    return (training // 3 if ahead else 0) + reference // 3 - backward_left_out
