"""Loss-based reweighting: pure functions from the losses of a whole batch to weights of its samples.

Sow et al. 2025 (arXiv 2502.06733): losses are normalized to [-1, 1] by the batch's own range, a rule maps them to
scores between 0 and 1, and a softmax maps the scores to weights. Here weights are scaled to a mean of 1 over all tokens
with loss, which for rows of equal length is the batch size times the softmax.

A sample is a row, a document or a token. Rows have arrays `[B, 1]`, the other two `[B, T]`: each token of a document
has the document's loss and its own part of the document's size, so that sums and extremes over tokens are those over
documents. Sums over a sharded batch are global, by the semantics of `jax.jit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.ledger import Clock, Timeline
from pathways_lite.recipe import (
    Extremes,
    Focal,
    LinUpper,
    Quadratic,
    Reweighting,
    RulePlugin,
    TopLosses,
    Uniform,
    Upper,
)

MIN_RANGE = 1e-6
"""Least range of a batch's losses, in nats: smaller ranges count as this one."""

EDGES = (0.03125, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0)
"""Edges of the histogram of weights: the first bin is below the first edge, the last bin above the last edge."""


class Samples(NamedTuple):
    """The samples of a batch; float32, `[B, 1]` or `[B, T]`."""

    loss: jax.Array  # mean over the sample's tokens, by their loss weights
    size: jax.Array  # sum of the loss weights; 0 where there is no sample


def sample_losses(losses: jax.Array, batch: Batch, kind: str) -> Samples:
    """Average the `losses` `[B, T]` of tokens over each sample of the batch."""
    size = batch.loss_weights
    if kind == "token":
        return Samples(losses, size)
    if kind == "row":
        total = jnp.sum(size, axis=1, keepdims=True)
        return Samples(jnp.sum(size * losses, axis=1, keepdims=True) / jnp.where(total > 0, total, 1.0), total)
    # Tokens of a document share its start: the first key that their queries attend to.
    rows = jnp.arange(losses.shape[0])[:, None]
    sums = jnp.zeros((2, *losses.shape), losses.dtype)
    sums = sums.at[:, rows, batch.spans.start].add(jnp.stack([size * losses, size]))
    loss, total = sums[:, rows, batch.spans.start]
    return Samples(loss / jnp.where(total > 0, total, 1.0), size)


def normalize_losses(samples: Samples) -> jax.Array:
    """Scale losses to [-1, 1] by the smallest and the largest of the batch: the paper's h."""
    exists = samples.size > 0
    low = jnp.min(samples.loss, where=exists, initial=jnp.inf)
    high = jnp.max(samples.loss, where=exists, initial=-jnp.inf)
    return (2.0 * samples.loss - (high + low)) / jnp.maximum(high - low, MIN_RANGE)


def score(rule: LinUpper | Upper | Quadratic | Extremes, h: jax.Array) -> jax.Array:
    """Return the rule's scores f(h), from 0 to 1."""
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
    """Return the softmax of `scores` / `temperature` over samples of the given sizes, with a mean of 1 per token."""
    highest = jnp.max(scores, where=size > 0, initial=-jnp.inf)
    return normalize_weights(jnp.exp((scores - highest) / temperature), size)


def normalize_weights(weights: jax.Array, size: jax.Array) -> jax.Array:
    """Scale weights to a mean of 1 per token; all are 1 where none is above 0. Samples without size have no weight."""
    weights = jnp.where(size > 0, weights, 0.0)
    total = jnp.sum(size * weights)
    return jnp.where(total == 0.0, 1.0, weights * (jnp.sum(size) / jnp.where(total == 0.0, 1.0, total)))


def select_top(samples: Samples, fraction: float) -> jax.Array:
    """Return 1 for the `fraction` of samples (for documents, of tokens) with the highest losses, 0 for the others."""
    exists = samples.size > 0
    ascending = jnp.sort(jnp.where(exists, samples.loss, -jnp.inf), axis=None)
    count = jnp.maximum(1, jnp.round(fraction * jnp.sum(exists)).astype(jnp.int32))
    return jnp.where(samples.loss >= ascending[ascending.size - count], 1.0, 0.0)


def weigh(reweighting: Reweighting, losses: jax.Array, batch: Batch, temperature: Any = 1.0) -> jax.Array:
    """Return the weight of every token `[B, T]`, or of every row `[B, 1]`; no gradient flows through it.

    Args:
      losses: float32 `[B, T]`, of the whole batch; with a reference model, the excess over its losses.
      temperature: the paper's r, for rules that have one.
    """
    samples = sample_losses(jax.lax.stop_gradient(losses), batch, reweighting.sample)
    match reweighting.rule:
        case Uniform():
            return jnp.ones_like(samples.loss)
        case Focal(gamma=gamma):
            # A loss below the reference's would be a probability above 1.
            return normalize_weights((1.0 - jnp.exp(-jnp.maximum(samples.loss, 0.0))) ** gamma, samples.size)
        case TopLosses(fraction=fraction):
            return normalize_weights(select_top(samples, fraction), samples.size)
        case RulePlugin() as rule:
            return normalize_weights(rule.weights(samples.loss, samples.size), samples.size)
        case rule:
            return softmax_weights(score(rule, normalize_losses(samples)), samples.size, temperature)


DomainFactors = Callable[[Batch, Clock], jax.Array]
"""(batch, clock) -> the weight of each row by its domain, float32 [B, 1]."""


def domain_factors(first_steps: Sequence[int], table: np.ndarray) -> DomainFactors:
    """Build the weights of rows from a `table` [phases, domains] whose phases begin at `first_steps`."""
    starts, rows = np.asarray(first_steps, np.int32), np.asarray(table, np.float32)

    def weights(batch: Batch, clock: Clock) -> jax.Array:
        phase = jnp.sum(clock.step >= starts) - 1
        return jnp.asarray(rows)[phase, batch.domain][:, None]

    return weights


def weights_by_clock(
    reweighting: Reweighting, timeline: Timeline, domains: DomainFactors | None = None
) -> Callable[[jax.Array, Batch, Clock], jax.Array]:
    """Bind `weigh` to the stage's clock: weights are 1 during the burn-in, then the temperature changes linearly.

    Weights of `domains`, if given, multiply those of samples.
    """
    burn_in_steps = timeline.steps_for(reweighting.burn_in)
    temperature = _temperature(reweighting, timeline)

    def weights(losses: jax.Array, batch: Batch, clock: Clock) -> jax.Array:
        sample_weights = weigh(reweighting, losses, batch, temperature(clock.progress))
        sample_weights = jnp.where(clock.step < burn_in_steps, 1.0, sample_weights)
        return sample_weights if domains is None else sample_weights * domains(batch, clock)

    return weights


def _temperature(reweighting: Reweighting, timeline: Timeline) -> Callable[[jax.Array], jax.Array]:
    """Return the temperature as a function of the stage's progress."""
    burn_in_end = timeline.progress(timeline.steps_for(reweighting.burn_in))
    initial = getattr(reweighting.rule, "temperature", 1.0)
    final = getattr(reweighting.rule, "final_temperature", None) or initial

    def temperature(progress: jax.Array) -> jax.Array:
        passed = jnp.clip((progress - burn_in_end) / max(1.0 - burn_in_end, MIN_RANGE), 0.0, 1.0)
        return initial + (final - initial) * passed

    return temperature


def temperature_at(reweighting: Reweighting, timeline: Timeline, step: int) -> float:
    """Return the temperature of the rule's softmax at `step`; 1 for a rule that has none."""
    return float(_temperature(reweighting, timeline)(jnp.float32(timeline.progress(step))))


def statistics(weights: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Return the logged statistics of a batch's weights, float32, scaled to the batch's B rows.

    `weight_entropy`: nats, log B where all weights are 1. `effective_batch_size`: Kish's (sum w)^2 / sum w^2, in rows.
    `weight_histogram`: the fraction of tokens in each bin of `EDGES`. `row_weights`, `row_domains`: `[B]`.
    """
    size = batch.loss_weights
    weights = jnp.broadcast_to(weights, size.shape)
    rows = size.shape[0]
    mean = lambda values: jnp.sum(size * values) / jnp.maximum(jnp.sum(size), MIN_RANGE)  # noqa: E731
    above = jnp.stack([jnp.ones(()), *(mean(weights > edge) for edge in EDGES), jnp.zeros(())])
    relative = weights / jnp.maximum(mean(weights), MIN_RANGE)  # weights of domains need not have a mean of 1
    logarithm = jnp.log(jnp.where(relative > 0, relative, 1.0))
    return {
        "weight_entropy": jnp.log(rows) - mean(relative * logarithm),
        "effective_batch_size": rows / jnp.maximum(mean(jnp.square(relative)), MIN_RANGE),
        "weight_histogram": above[:-1] - above[1:],
        "row_weights": jnp.sum(size * weights, axis=1) / jnp.maximum(jnp.sum(size, axis=1), MIN_RANGE),
        "row_domains": batch.domain,
    }


def needs_full_batch_losses(rows: int, sequences: int, microbatch: int | None) -> bool:
    """True if losses of the full batch are needed before the gradient: an extra forward pass precedes it."""
    return rows < sequences or microbatch not in (None, sequences)


def extra_flops(
    reweighting: Reweighting, training: int, reference: int, ahead: bool, forward: int | None = None
) -> int:
    """Return the change in FLOPs per token: skipped rows save some, and forward passes besides the step's add some.

    Args:
      training: FLOPs of training on a token, forward and backward.
      reference: FLOPs of training the reference model on a token; 0 without one.
      ahead: whether losses are computed before the step, as they are for microbatches and for skipped rows.
      forward: FLOPs of the forward pass alone; None: a third of training, as where everything is trained.
    """
    skipped = round((1.0 - reweighting.kept_fraction) * training)
    forward = training // 3 if forward is None else forward
    return (forward if ahead else 0) + reference // 3 - skipped
