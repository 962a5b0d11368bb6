"""Weights of domains that are learned step by step while a proxy trains: DoReMi and DoGE.

Both keep a distribution alpha over domains, uniform at first, and multiply it in every step by the exponential of
scores. The proxy's loss is sum_j alpha_j L_j, L_j being the mean over the tokens of domain j in the batch, however
often it is read; what comes out is the average of alpha over all steps.

- DoReMi (Xie et al. 2023, arXiv 2305.10429, algorithm 1): a score is the mean over a domain's tokens of how far the
  proxy's loss exceeds a reference's, 0 where it does not.
- DoGE (Fan et al. 2023, arXiv 2310.15393): a score is <grad L_j, h> / |h|, with h the sum of all domains' gradients, or
  the target's. (The paper's W_j is <grad L_j, h>, and its code divides by the mean norm of the domains' gradients and
  clips. Divided by the norm of h, a step means the same whatever the scale of gradients.)

Shapes: B samples, T positions, D domains. Sums over a batch that is spread over devices are global, by `jit`'s meaning.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.methods.reweighting import normalize_weights
from pathways_lite.recipe import DoGE, DoReMi

_LEAST = 1e-30  # of alpha


class DomainWeightState(NamedTuple):
    """What goes from step to step."""

    weights: Any  # float32 [D], alpha; above 0 for those that take part, for others 0
    average: Any  # float32 [D], of alpha over the steps so far
    scores: Any  # float32 [D], each domain's newest, which counts again while a batch has nothing of the domain
    steps: Any  # int32


def init(takes_part: np.ndarray) -> DomainWeightState:
    """Before the first step: uniform over the domains that take part, bool [D]."""
    weights = np.asarray(takes_part, np.float32) / np.sum(takes_part)
    return DomainWeightState(weights, np.zeros_like(weights), np.zeros_like(weights), np.int32(0))


def share_of_domains(batch: Batch, domains: int) -> jax.Array:
    """Each domain's share of the batch's tokens with loss, [D]."""
    sizes = _sums(batch.loss_weights, batch, domains)
    total = jnp.sum(sizes)
    return sizes / jnp.where(total > 0, total, 1.0)


def means_of_domains(losses: jax.Array, batch: Batch, domains: int) -> tuple[jax.Array, jax.Array]:
    """The mean of `losses` [B, T] over each domain's tokens, 0 where it has none, and its share of tokens; both [D]."""
    sizes = _sums(batch.loss_weights, batch, domains)
    means = _sums(batch.loss_weights * losses, batch, domains) / jnp.where(sizes > 0, sizes, 1.0)
    return means, share_of_domains(batch, domains)


def _sums(values: jax.Array, batch: Batch, domains: int) -> jax.Array:
    """`values` [B, T] added up by domain, [D]."""
    of = batch.domain[:, None] == jnp.arange(domains)
    return jnp.sum(jnp.where(of, jnp.sum(values, axis=1, keepdims=True), 0.0), axis=0)


def token_weights(weights: jax.Array, share: jax.Array, batch: Batch) -> jax.Array:
    """Weights of rows [B, 1] that make the mean loss sum_j weights_j L_j; their mean per token is 1.

    All are 0 where no row is of a domain with weight, as in a batch of DoGE's target alone.

    Args:
      share: of each domain in the batch's tokens, [D].
    """
    size = jnp.sum(batch.loss_weights, axis=1, keepdims=True)
    found = normalize_weights((weights / jnp.where(share > 0, share, 1.0))[batch.domain][:, None], size)
    return jnp.where(jnp.sum(weights * share) > 0, found, 0.0)


def update(
    learned: DomainWeightState, scores: jax.Array, there: jax.Array, step: Any, smoothing: float
) -> DomainWeightState:
    """One step of exponentiated gradient ascent, along the `scores` [D] of domains that are `there`, bool [D]."""
    scores = jnp.where(there, scores, learned.scores)
    part = learned.weights > 0
    exponent = jnp.where(part, jnp.log(jnp.where(part, learned.weights, 1.0)) + step * scores, -jnp.inf)
    # Nothing that takes part comes to 0, from where it could not come back.
    spread = part * jnp.maximum(jax.nn.softmax(exponent), _LEAST)
    weights = (1.0 - smoothing) * spread + smoothing * part / jnp.sum(part)
    steps = learned.steps + 1
    return DomainWeightState(weights, learned.average + (weights - learned.average) / steps, scores, steps)


def doremi(
    rule: DoReMi, excess: jax.Array, batch: Batch, learned: DomainWeightState
) -> tuple[jax.Array, DomainWeightState]:
    """Weights of rows [B, 1], and what has been learned; `excess` [B, T]: losses less the reference's."""
    scores, share = means_of_domains(jnp.maximum(excess, 0.0), batch, len(learned.weights))
    learned = update(learned, scores, share > 0, rule.step, rule.smoothing)
    return token_weights(learned.weights, share, batch), learned


def doge(
    rule: DoGE, rate: Any, scores: jax.Array, there: jax.Array, batch: Batch, learned: DomainWeightState
) -> tuple[jax.Array, DomainWeightState]:
    """As `doremi`, by the `scores` [D] of gradients, known of domains that are `there`; `rate`: the learning rate."""
    share = share_of_domains(batch, len(learned.weights))
    learned = update(learned, scores, there, rate / rule.mu, rule.smoothing)
    return token_weights(learned.weights, share, batch), learned


def statistics(learned: DomainWeightState) -> dict[str, jax.Array]:
    """What is logged of it, float32 [D] each."""
    return {
        "domain_weights": learned.weights,
        "average_domain_weights": learned.average,
        "domain_scores": learned.scores,
    }
