"""Pruning criteria: float32 scores from weights, gradients and sums over steps; the lowest scores are pruned.

Where a criterion needs sums, there is one for every prunable weight, sharded as the weights are.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pathways_lite.recipe import FirstOrder, Magnitude, Movement, Prune, RandomScores

Weights = Sequence[jax.Array]
Criterion = Magnitude | FirstOrder | Movement | RandomScores


def accumulate_sums(criterion: Criterion, sums: Weights, weights: Weights, grads: Weights) -> list[jax.Array]:
    """Add a step to a criterion's sums; [] for criteria that use a single step."""
    match criterion:
        case FirstOrder(decay=decay):
            new = [jnp.abs(w * g) for w, g in zip(weights, grads, strict=True)]
            return [decay * s + (1.0 - decay) * x for s, x in zip(sums, new, strict=True)]
        case Movement(decay=decay):
            return [decay * s - w * g for s, w, g in zip(sums, weights, grads, strict=True)]
    return []


def needs_sums(criterion: Criterion) -> bool:
    """Whether the criterion has sums over steps."""
    return isinstance(criterion, FirstOrder | Movement)


def scores(criterion: Criterion, weights: Weights, sums: Weights, update: jax.Array | int) -> list[jax.Array]:
    """Score the weights; `update` (the step) seeds random scores."""
    match criterion:
        case Magnitude():
            return [jnp.abs(w) for w in weights]
        case RandomScores(seed=seed):
            return random_scores(seed, update, weights)
    return list(sums)


def initial_scores(prune: Prune, weights: Weights) -> list[jax.Array]:
    """Score the weights before the first step: by magnitude, where the criterion needs gradients."""
    criterion = Magnitude() if needs_sums(prune.criterion) else prune.criterion
    return scores(criterion, weights, [], 0)


def random_scores(seed: int, update: jax.Array | int, weights: Weights) -> list[jax.Array]:
    """Draw uniform scores from the seed, the update and a weight's position alone, however weights are sharded."""
    key = jax.random.fold_in(jax.random.key(seed), update)
    keys = [jax.random.fold_in(key, number) for number in range(len(weights))]
    with jax.threefry_partitionable(True):
        return [jax.random.uniform(k, w.shape) for k, w in zip(keys, weights, strict=True)]
