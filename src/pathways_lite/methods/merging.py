"""Model merging: weighted averages of parameters, summed in float32, and greedy soups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def normalized_weights(weights: Sequence[float]) -> list[float]:
    """Divide weights by their sum."""
    return [weight / sum(weights) for weight in weights]


def ages(count: int, decay: float) -> list[float]:
    """Return relative weights of `count` checkpoints, the newest first: `decay` to the power of their age."""
    return [decay**age for age in range(count)]


def average(trees: Iterable[Any], weights: Sequence[float]) -> Any:
    """Average pytrees of arrays: summed in float32, returned in the dtypes of the first, one in memory at a time."""
    total, dtypes = None, None
    for weight, tree in zip(normalized_weights(weights), trees, strict=True):
        if total is None:
            dtypes = jax.tree.map(lambda x: x.dtype, tree)
            total = _scale(tree, weight)
        else:
            total = _add_scaled(total, tree, weight)
    return jax.tree.map(lambda x, dtype: x.astype(dtype), total, dtypes)


@jax.jit
def _scale(tree: Any, weight: jax.Array) -> Any:
    return jax.tree.map(lambda x: weight * x.astype(jnp.float32), tree)


@jax.jit
def _add_scaled(total: Any, tree: Any, weight: jax.Array) -> Any:
    return jax.tree.map(lambda s, x: s + weight * x.astype(jnp.float32), total, tree)


def greedy_soup[T](candidates: Sequence[T], loss: Callable[[Sequence[T]], float]) -> list[T]:
    """Select the candidates of a greedy soup (Wortsman et al. 2022, arXiv 2203.05482, recipe 1).

    Candidates are tried from the best to the worst; each stays if the uniform average with it is not worse.

    Args:
      loss: the held-out loss of the uniform average of some candidates.
    """
    single_losses = {index: loss([candidate]) for index, candidate in enumerate(candidates)}
    ranked = sorted(single_losses, key=single_losses.__getitem__)
    soup, best = [candidates[ranked[0]]], single_losses[ranked[0]]
    for index in ranked[1:]:
        if (soup_loss := loss([*soup, candidates[index]])) <= best:
            soup, best = [*soup, candidates[index]], soup_loss
    return soup
