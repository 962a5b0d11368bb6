"""Selection of one of k samples without knowing which are correct: votes over answers, and the best by a score."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from pathways_lite.keyed import derive_keys, uniform

SUBSETS = 100
NO_ANSWER = -1


def answer_codes(answers: Any) -> np.ndarray:
    """Return an integer per answer [n], equal for equal answers; `NO_ANSWER` for None, which does not vote."""
    numbers: dict[Any, int] = {}
    return np.array([NO_ANSWER if a is None else numbers.setdefault(a, len(numbers)) for a in answers], np.int64)


def vote(
    codes: np.ndarray,
    correct: np.ndarray,
    ks: Any,
    *,
    key: int,
    weights: np.ndarray | None = None,
    subsets: int = SUBSETS,
) -> np.ndarray:
    """Return how often the answer with the most votes among k samples is correct [ks], over random subsets.

    `codes` [n] are of `answer_codes`, `correct` [n] says which samples are. Without `weights` [n] it is the majority
    vote of Wang et al. 2022, arXiv 2203.11171. Of tied answers one is chosen at random: a tie counts as the share of
    correct ones. A subset in which nobody votes is wrong. `key` numbers the problem: it alone decides the subsets, and
    those of a smaller k are contained in those of a larger one.
    """
    ks = np.asarray(ks, np.int64)
    n, votes = len(codes), codes != NO_ANSWER
    if not votes.any():
        return np.zeros(len(ks))
    answers = int(codes.max()) + 1
    share = np.bincount(codes[votes], correct[votes].astype(np.float64), answers) / np.maximum(
        np.bincount(codes[votes], minlength=answers), 1
    )
    draws = uniform(derive_keys("vote subsets", 0, np.array([key]))[:, None], 0, np.arange(subsets * n)[None])
    order = np.argsort(draws.reshape(subsets, n), axis=1)
    amounts = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    amounts = np.where(votes, amounts, 0.0)
    # A subset's votes are kept in a row of their own; a sample without an answer adds nothing to the first one.
    places = np.maximum(codes, 0)[order] + answers * np.arange(subsets)[:, None]
    amounts = amounts[order]
    total = np.zeros(subsets * answers)
    accuracy, done = np.empty(len(ks)), 0
    alone = share[codes[votes]].sum() / n  # the only vote decides, so nothing has to be drawn
    for i in np.argsort(ks):
        k = int(ks[i])
        total += np.bincount(places[:, done:k].ravel(), amounts[:, done:k].ravel(), len(total))
        done = k
        tally = total.reshape(subsets, answers)
        most = tally.max(axis=1, keepdims=True)
        tied = (tally >= most * (1 - 1e-9)) & (tally > 0)
        accuracy[i] = alone if k == 1 else np.mean((tied @ share) / np.maximum(tied.sum(axis=1), 1))
    return accuracy


def best_of_k_weights(n: int, ks: Any) -> np.ndarray:
    """Return C(j-1,k-1)/C(n,k) [ks, n]: how likely the j-th of n samples by ascending score is the best of k."""
    k, j = np.asarray(ks, np.float64)[:, None], np.arange(1, n + 1, dtype=np.float64)[None]
    log = (
        special.gammaln(j) - special.gammaln(k) - special.gammaln(np.maximum(j - k, 0) + 1)
        - special.gammaln(n + 1) + special.gammaln(k + 1) + special.gammaln(n - k + 1)
    )  # fmt: skip
    return np.where(j < k, 0.0, np.exp(log))


def best_of_k(correct: np.ndarray, scores: np.ndarray, ks: Any) -> np.ndarray:
    """Return the exact probability [ks] that the sample with the highest score among k random ones is correct.

    `correct` and `scores` [n]; a NaN score is below all others. Among equal scores one is chosen at random, whose
    expectation is exact too: each counts as the mean of those with its score.
    """
    filled = np.where(np.isnan(scores), -np.inf, scores)
    _, rank, count = np.unique(filled, return_inverse=True, return_counts=True)
    share = np.bincount(rank, correct.astype(np.float64)) / count
    return best_of_k_weights(len(correct), ks) @ np.repeat(share, count)
