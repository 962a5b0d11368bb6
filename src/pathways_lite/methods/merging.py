"""Averages of models: weights that add up to 1, sums of parameters in float32, and greedy soups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def normalized_weights(weights: Sequence[float]) -> list[float]:
    """Weights as shares of their sum."""
    return [weight / sum(weights) for weight in weights]


def ages(count: int, decay: float) -> list[float]:
    """Relative weights of `count` checkpoints, the newest first: `decay` to the power of their age."""
    return [decay**age for age in range(count)]


def average(trees: Iterable[Any], weights: Sequence[float]) -> Any:
    """The weighted mean of pytrees of arrays, summed in float32, in the dtypes of the first; one is held at a time."""
    total, dtypes = None, None
    for share, tree in zip(normalized_weights(weights), trees, strict=True):
        if total is None:
            dtypes = jax.tree.map(lambda x: x.dtype, tree)
            total = _scaled(tree, share)
        else:
            total = _added(total, tree, share)
    return jax.tree.map(lambda x, dtype: x.astype(dtype), total, dtypes)


@jax.jit
def _scaled(tree: Any, share: jax.Array) -> Any:
    return jax.tree.map(lambda x: share * x.astype(jnp.float32), tree)


@jax.jit
def _added(total: Any, tree: Any, share: jax.Array) -> Any:
    return jax.tree.map(lambda s, x: s + share * x.astype(jnp.float32), total, tree)


def greedy_soup[T](candidates: Sequence[T], loss: Callable[[Sequence[T]], float]) -> list[T]:
    """The candidates that a greedy soup is made of (Wortsman et al. 2022, arXiv 2203.05482, recipe 1).

    From the best one on, each stays if the uniform average with it is not worse. `loss`: held-out loss of an average.
    """
    alone = {index: loss([candidate]) for index, candidate in enumerate(candidates)}
    ranked = sorted(alone, key=alone.__getitem__)
    soup, best = [candidates[ranked[0]]], alone[ranked[0]]
    for index in ranked[1:]:
        if (found := loss([*soup, candidates[index]])) <= best:
            soup, best = [*soup, candidates[index]], found
    return soup
