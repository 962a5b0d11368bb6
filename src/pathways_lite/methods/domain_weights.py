"""Domain weights that are learned while a proxy model trains: DoReMi and DoGE.

Both keep a distribution alpha over domains, uniform at first, and multiply it in every step by the exponential of
scores. The proxy's loss is sum_j alpha_j L_j, where L_j is the mean over the tokens of domain j in the batch, however
often the domain is sampled. The result is the average of alpha over all steps.

- DoReMi (Xie et al. 2023, arXiv 2305.10429, algorithm 1): a score is the mean excess loss over a domain's tokens:
  the proxy's loss minus a reference model's, clipped at 0. Where a domain is missing from a batch, the loss weights of
  the others are scaled to a mean of 1 per token, as in the authors' code; algorithm 1 does not.
- DoGE (Fan et al. 2023, arXiv 2310.15393): a score is <grad L_j, h> / |h|, where h is the sum of all domains'
  gradients, or the target domain's gradient. Scores are in proportion to the size of grad L_j, and so to the scale of
  the losses. The paper's W_j is <grad L_j, h>. Its code clips each domain's gradient, leaves <grad L_j, grad L_j> out,
  divides by the mean norm of the domains' gradients instead of |h|, and clips scores to [0, 5]: for D domains with
  similar gradients its scores are D - 1 times these. That takes a backward pass per domain; a difference along h does
  not.

Shapes: B samples, T positions, D domains. Sums over a sharded batch are global, by the semantics of `jit`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.methods.reweighting import normalize_weights
from pathways_lite.recipe import DoGE, DoReMi

_MIN_ALPHA = 1e-30


class DomainWeightState(NamedTuple):
    """State that is carried from step to step."""

    weights: Any  # float32 [D], alpha; above 0 for active domains, 0 for others
    average: Any  # float32 [D], mean of alpha over the steps so far
    scores: Any  # float32 [D], the latest of each domain; used again while batches have no token of the domain
    steps: Any  # int32


def init(active: np.ndarray) -> DomainWeightState:
    """Return the state before the first step: uniform weights over the `active` domains, bool [D]."""
    weights = np.asarray(active, np.float32) / np.sum(active)
    return DomainWeightState(weights, np.zeros_like(weights), np.zeros_like(weights), np.int32(0))


def share_of_domains(batch: Batch, domains: int) -> jax.Array:
    """Return each domain's fraction of the batch's tokens with loss, [D]."""
    sizes = _sum_by_domain(batch.loss_weights, batch, domains)
    total = jnp.sum(sizes)
    return sizes / jnp.where(total > 0, total, 1.0)


def means_of_domains(losses: jax.Array, batch: Batch, domains: int) -> tuple[jax.Array, jax.Array]:
    """Return the mean of `losses` [B, T] over each domain's tokens (0 without any) and its token fraction, both [D]."""
    sizes = _sum_by_domain(batch.loss_weights, batch, domains)
    means = _sum_by_domain(batch.loss_weights * losses, batch, domains) / jnp.where(sizes > 0, sizes, 1.0)
    return means, share_of_domains(batch, domains)


def _sum_by_domain(values: jax.Array, batch: Batch, domains: int) -> jax.Array:
    """Sum `values` [B, T] by domain, [D]."""
    is_member = batch.domain[:, None] == jnp.arange(domains)
    return jnp.sum(jnp.where(is_member, jnp.sum(values, axis=1, keepdims=True), 0.0), axis=0)


def token_weights(weights: jax.Array, share: jax.Array, batch: Batch) -> jax.Array:
    """Return row weights [B, 1] under which the mean loss is sum_j weights_j L_j; their mean over tokens is 1.

    All are 0 where no row belongs to a domain with weight, as in a batch of DoGE's target alone.

    Args:
      share: each domain's fraction of the batch's tokens, [D].
    """
    size = jnp.sum(batch.loss_weights, axis=1, keepdims=True)
    row_weights = normalize_weights((weights / jnp.where(share > 0, share, 1.0))[batch.domain][:, None], size)
    return jnp.where(jnp.sum(weights * share) > 0, row_weights, 0.0)


def update(
    state: DomainWeightState, scores: jax.Array, has_score: jax.Array, step: Any, smoothing: float
) -> DomainWeightState:
    """Take a step of exponentiated gradient ascent along `scores` [D]; `has_score` bool [D]: domains with a new one."""
    scores = jnp.where(has_score, scores, state.scores)
    active = state.weights > 0
    logits = jnp.where(active, jnp.log(jnp.where(active, state.weights, 1.0)) + step * scores, -jnp.inf)
    # An active domain never reaches 0, as it could not recover.
    alpha = active * jnp.maximum(jax.nn.softmax(logits), _MIN_ALPHA)
    weights = (1.0 - smoothing) * alpha + smoothing * active / jnp.sum(active)
    steps = state.steps + 1
    return DomainWeightState(weights, state.average + (weights - state.average) / steps, scores, steps)


def doremi(
    rule: DoReMi, excess_loss: jax.Array, batch: Batch, state: DomainWeightState
) -> tuple[jax.Array, DomainWeightState]:
    """Return DoReMi's row weights [B, 1] and the new state; `excess_loss` [B, T]: losses minus the reference's."""
    scores, share = means_of_domains(jnp.maximum(excess_loss, 0.0), batch, len(state.weights))
    state = update(state, scores, share > 0, rule.step, rule.smoothing)
    return token_weights(state.weights, share, batch), state


def doge(
    rule: DoGE, learning_rate: Any, scores: jax.Array, has_score: jax.Array, batch: Batch, state: DomainWeightState
) -> tuple[jax.Array, DomainWeightState]:
    """Return DoGE's row weights [B, 1] and the new state, from gradient alignments `scores` [D]; see `update`."""
    share = share_of_domains(batch, len(state.weights))
    state = update(state, scores, has_score, learning_rate / rule.mu, rule.smoothing)
    return token_weights(state.weights, share, batch), state


def statistics(state: DomainWeightState) -> dict[str, jax.Array]:
    """Return the logged statistics, float32 [D] each."""
    return {
        "domain_weights": state.weights,
        "average_domain_weights": state.average,
        "domain_scores": state.scores,
    }
