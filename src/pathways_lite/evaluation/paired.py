"""Losses of the same tokens read in two ways, their difference, and its standard error over documents.

The tokens are those of gaps: filled, and read from left to right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class PairedLosses(NamedTuple):
    """Nats of the same tokens, [n] each."""

    nll: np.ndarray
    left_to_right: np.ndarray
    document: np.ndarray  # integers: the document of each token


def join_pairs(pairs: Sequence[PairedLosses]) -> PairedLosses:
    """Join the tokens of all `pairs`; at least one."""
    return PairedLosses(*(np.concatenate(values) for values in zip(*pairs, strict=True)))


def summarize_pairs(pairs: PairedLosses) -> dict[str, float]:
    """Average over tokens.

    Returns:
      `loss` and `loss_left_to_right` in nats per token; `difference`, the first minus the second, with its
      `standard_error` over documents, which is left out if there is only one; `tokens` and `documents`, their numbers.
    """
    difference, standard_error = clustered_mean(pairs.nll - pairs.left_to_right, pairs.document)
    return {
        "loss": float(pairs.nll.mean()),
        "loss_left_to_right": float(pairs.left_to_right.mean()),
        "difference": difference,
        **({} if math.isnan(standard_error) else {"standard_error": standard_error}),
        "tokens": len(pairs.nll),
        "documents": len(np.unique(pairs.document)),
    }


def clustered_mean(values: np.ndarray, cluster: np.ndarray) -> tuple[float, float]:
    """Return the mean of `values` and its standard error, [n] each, where values of one cluster are not independent.

    The mean is a ratio of sums over clusters: with residual sums r_c = sum of (value - mean) in cluster c, its variance
    is C / (C - 1) * sum(r_c^2) / n^2 (Liang and Zeger 1986, the sandwich estimator with its factor for few clusters).
    For clusters of one value it is the usual s / sqrt(n). NaN for one cluster.
    """
    mean = float(np.mean(values))
    _, index = np.unique(cluster, return_inverse=True)
    residual_sums = np.bincount(index, weights=values - mean)
    n_clusters = len(residual_sums)
    if n_clusters < 2:
        return mean, math.nan
    variance = n_clusters / (n_clusters - 1) * float(residual_sums @ residual_sums) / len(values) ** 2
    return mean, math.sqrt(variance)


class GapScores(NamedTuple):
    """The scores of a task, token by token and gap by gap; `document`: the number of the document of each."""

    pairs: PairedLosses  # of the gaps' tokens
    exact: np.ndarray  # bool [gaps]: greedy decoding would fill and end the gap exactly
    exact_document: np.ndarray
    parts: dict[str, tuple[np.ndarray, np.ndarray]]  # nats and document of all tokens of the content, and of the format

    def summary(self, first: int = 0, stop: int | None = None) -> dict[str, float]:
        """Average over documents `first` to `stop`; empty if they have no gaps.

        Returns:
          What `summarize_pairs` says of the gaps' tokens; where there are gaps `exact` (a fraction) and `gaps` (their
          number), and where there are parts `content_loss`, `content_tokens`, `format_loss` and `format_tokens`.
        """

        def among(document: np.ndarray) -> np.ndarray:
            return (document >= first) & (document < (np.inf if stop is None else stop))

        pairs = PairedLosses(*(values[among(self.pairs.document)] for values in self.pairs))
        if not len(pairs.nll):
            return {}
        result: dict[str, float] = {}
        if len(exact := self.exact[among(self.exact_document)]):
            result["exact"] = float(exact.mean())
        result |= summarize_pairs(pairs)
        if len(exact):
            result["gaps"] = len(exact)
        for part, (nll, document) in self.parts.items():
            if len(chosen := nll[among(document)]):
                result[f"{part}_loss"] = float(chosen.mean())
            result[f"{part}_tokens"] = len(chosen)
        return result
