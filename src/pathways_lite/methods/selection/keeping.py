"""Which documents are kept, given a score of each: a share of the corpus's tokens, from one part of the scores.

Shares are of tokens, not of documents: half of the data is half an epoch, however long the documents are.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Which = Literal["bottom", "middle", "top"]
"""The lowest scores, those around the median, or the highest (the names of Marion et al. 2023, arXiv 2309.04564)."""


def keep(
    score: np.ndarray,
    tokens: np.ndarray,
    share: float,
    which: Which,
    groups: np.ndarray | None = None,
    floor: float = 0.0,
) -> np.ndarray:
    """Which documents are kept, bool `[n]`: those that come first until the `share` of all tokens is reached.

    The document in which it is reached is kept if more than half of it fits. Equal scores: the earlier document first.

    Args:
      score: of each document, `[n]`, finite.
      tokens: in each document, integers `[n]`.
      share: of all tokens, in (0, 1].
      which: part of the scores that comes first.
      groups: integers `[n]`; with `floor`, each group keeps at least that share of what it would keep if all groups
        were treated alike, from the same part of its own scores. Sorscher et al. 2022 (arXiv 2206.14486, section 6) set
        0.5 for classes. With 1, every group is selected from by itself, and what whole documents leave of the budget
        goes to those that come first of all.
    """
    kept = np.zeros(len(score), bool)
    if groups is not None and floor:
        for group in np.unique(groups):
            here = np.flatnonzero(groups == group)
            budget = floor * share * float(tokens[here].sum())
            kept[here[_first(_cost(score[here], tokens[here], which), tokens[here], budget)]] = True
    left = np.flatnonzero(~kept)
    budget = share * float(tokens.sum()) - float(tokens[kept].sum())
    kept[left[_first(_cost(score, tokens, which)[left], tokens[left], budget)]] = True
    return kept


def _first(cost: np.ndarray, tokens: np.ndarray, budget: float) -> np.ndarray:
    """Indices of the documents of the lowest cost whose tokens add up to about `budget`."""
    order = np.argsort(cost, kind="stable")
    return order[_middles(tokens[order]) < budget]


def _cost(score: np.ndarray, tokens: np.ndarray, which: Which) -> np.ndarray:
    if which != "middle":
        return score if which == "bottom" else -score
    order = np.argsort(score, kind="stable")
    quantile = np.empty(len(score))
    quantile[order] = _middles(tokens[order]) / max(1, tokens.sum())
    return np.abs(quantile - 0.5)


def _middles(tokens: np.ndarray) -> np.ndarray:
    """Where the middle of each document lies when they stand one after the other."""
    return np.cumsum(tokens) - tokens / 2
