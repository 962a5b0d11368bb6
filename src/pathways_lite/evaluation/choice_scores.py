"""Accuracies and continuous scores of tasks, from the nats of answers; arrays only.

Three ways to compare the choices of an item (Brown et al. 2020, arXiv 2005.14165, §2.4): ln p(c | context), the same
per token, and ln p(c | context) - ln p(c | "Answer:").
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

NORMALIZATIONS = ("sum", "token", "unconditional")


class AnswerScores(NamedTuple):
    """Scores of the answers of one item, [choices] each."""

    logp: np.ndarray  # nats of the whole answer in its context
    tokens: np.ndarray
    unconditional: np.ndarray  # nats after "Answer:" alone


def picks(scores: AnswerScores) -> dict[str, int]:
    """Return the choice that each normalization prefers; of equal ones the first."""
    values = (scores.logp, scores.logp / scores.tokens, scores.logp - scores.unconditional)
    return {name: int(np.argmax(value)) for name, value in zip(NORMALIZATIONS, values, strict=True)}


def probabilities(logp: np.ndarray) -> np.ndarray:
    """Return the probabilities of choices [choices] among each other."""
    shares = np.exp(logp - np.max(logp))
    return shares / shares.sum()


def brier(p: np.ndarray, right: int) -> float:
    """Return the sum of squared errors of probabilities [choices] (Brier 1950): 0 at best, 2 at worst."""
    return float(np.sum((p - np.eye(len(p))[right]) ** 2))


class Mean(NamedTuple):
    """A mean over items with its standard error."""

    value: float
    error: float


def mean_of(values: Sequence[float], groups: Sequence[Hashable]) -> Mean:
    """Return the mean of values [n] and its standard error; variants, items of one group, are not independent.

    The error is that of a mean over clusters, sqrt(G / (G - 1) sum_g (sum_{i in g} (x_i - mean))^2) / n; where every
    group is one item, the standard deviation over sqrt(n). NaN for one group.
    """
    x = np.asarray(values, np.float64)
    names: dict[Hashable, int] = {}
    index = np.array([names.setdefault(group, len(names)) for group in groups])
    sums = np.bincount(index, x - x.mean())
    count = len(names)
    error = np.sqrt(count / (count - 1) * np.sum(sums**2)) / len(x) if count > 1 else np.nan
    return Mean(float(x.mean()), float(error))


def means_json(columns: Mapping[str, Sequence[float]], groups: Sequence[Hashable]) -> dict[str, float]:
    """Return `NAME` and `NAME_se` of every column of values [n]."""
    result: dict[str, float] = {}
    for name, values in columns.items():
        mean = mean_of(values, groups)
        result |= {name: mean.value, f"{name}_se": mean.error}
    return result
