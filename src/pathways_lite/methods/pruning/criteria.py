"""What a weight is worth: float32 scores of which the lowest go, out of weights, gradients and sums over steps.

Sums are kept for every prunable weight where a criterion needs them, and spread as the weights are.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pathways_lite.recipe import FirstOrder, Magnitude, Movement, Prune, RandomScores

Weights = Sequence[jax.Array]
Criterion = Magnitude | FirstOrder | Movement | RandomScores


def accumulate_sums(criterion: Criterion, sums: Weights, weights: Weights, grads: Weights) -> list[jax.Array]:
    """What is kept from step to step, after one more; nothing where the criterion looks at a single step."""
    match criterion:
        case FirstOrder(decay=decay):
            new = [jnp.abs(w * g) for w, g in zip(weights, grads, strict=True)]
            return [decay * s + (1.0 - decay) * x for s, x in zip(sums, new, strict=True)]
        case Movement(decay=decay):
            return [decay * s - w * g for s, w, g in zip(sums, weights, grads, strict=True)]
    return []


def keeps_sums(criterion: Criterion) -> bool:
    """Whether `accumulate_sums` has anything to keep."""
    return isinstance(criterion, FirstOrder | Movement)


def scores(criterion: Criterion, weights: Weights, sums: Weights, update: jax.Array | int) -> list[jax.Array]:
    """The weights' scores; `update` (the step) tells random ones apart."""
    match criterion:
        case Magnitude():
            return [jnp.abs(w) for w in weights]
        case RandomScores(seed=seed):
            return random_scores(seed, update, weights)
    return list(sums)


def first_scores(prune: Prune, weights: Weights) -> list[jax.Array]:
    """Scores before the first step, where there are no gradients yet: magnitudes in their stead."""
    criterion = Magnitude() if keeps_sums(prune.criterion) else prune.criterion
    return scores(criterion, weights, [], 0)


def random_scores(seed: int, update: jax.Array | int, weights: Weights) -> list[jax.Array]:
    """Uniform numbers that depend on the seed, the update and a weight's place alone, however weights are spread."""
    key = jax.random.fold_in(jax.random.key(seed), update)
    keys = [jax.random.fold_in(key, number) for number in range(len(weights))]
    with jax.threefry_partitionable(True):
        return [jax.random.uniform(k, w.shape) for k, w in zip(keys, weights, strict=True)]
