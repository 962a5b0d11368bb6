"""Which documents are kept, given a score of each: a share of the corpus's tokens, from one part of the scores.

Shares are of tokens, not of documents: half of the data is half an epoch, however long the documents are.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

Which = Literal["bottom", "middle", "top"]
"""The lowest scores, those around the median, or the highest (the names of Marion et al. 2023, arXiv 2309.04564)."""


def select_fraction(
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


# K-means on embeddings of documents: how far each lies from its prototype, and clusters as groups of documents.
#
# Sorscher et al. 2022 (arXiv 2206.14486, section 6): the distance to the nearest centroid tells easy documents (near)
# from hard ones (far). Keep hard ones where data is abundant, easy ones where it is scarce.


Distance = Literal["cosine", "euclidean"]

_SAMPLE = 1 << 16  # documents that centroids are found from
_BLOCK = 1 << 14  # documents whose distances are computed at once


class Clusters(NamedTuple):
    """Of each document, `[n]`."""

    cluster: np.ndarray  # int64
    distance: np.ndarray  # float64, to the cluster's centroid: Euclidean, or 1 - cosine of the angle


def cluster(embeddings: np.ndarray, k: int, distance: Distance, seed: int) -> Clusters:
    """The `k` clusters of `embeddings` float `[n, E]`, or fewer of fewer documents; the same for the same seed.

    Centroids come from at most 65,536 documents, drawn by the seed; all documents are assigned to them. For cosine
    distance embeddings and centroids are scaled to length 1 (spherical k-means, but for the averages).
    """
    points = normalized(embeddings) if distance == "cosine" else np.asarray(embeddings, np.float64)
    drawn = np.random.default_rng(seed).permutation(len(points))[:_SAMPLE]
    # With several threads the order of sums, and with it the last digits, would be another one every time.
    with threadpool_limits(1, user_api="openmp"):
        found = KMeans(min(k, len(drawn)), n_init=4, random_state=seed).fit(points[np.sort(drawn)])
    centroids = normalized(found.cluster_centers_) if distance == "cosine" else found.cluster_centers_
    parts = [_nearest(points[at : at + _BLOCK], centroids) for at in range(0, len(points), _BLOCK)]
    label, squared = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Of vectors of length 1: |a - b|^2 = 2 (1 - cosine).
    return Clusters(label, squared / 2 if distance == "cosine" else np.sqrt(squared))


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Vectors `[n, E]` scaled to length 1, float64; 0 stays 0."""
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _nearest(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest centroid, and the square of the distance to it."""
    label = np.argmin(np.sum(centroids**2, axis=1) - 2 * points @ centroids.T, axis=1)
    return label, np.sum((points - centroids[label]) ** 2, axis=1)


# RDS+: documents whose embeddings are like those of a target set (Ivison et al. 2025, arXiv 2503.01807).
#
# An embedding is the mean of a language model's last hidden states, each weighted by its position, as later ones have
# seen more of the text. Targets take turns: each in turn takes the document that is most like it.


class PrototypeScores(NamedTuple):
    """Of each document, `[n]`."""

    similarity: np.ndarray  # float64, cosine, with the target that is most like it
    turn: np.ndarray  # int64: in which turn it is taken; documents are kept in this order


def prototype_scores(embeddings: np.ndarray, targets: np.ndarray) -> PrototypeScores:
    """How like the targets `[q, E]`, q > 0, the documents `[n, E]` are, and when each would be taken in round-robin.

    In turn i q + v, target v takes the document that is i-th in likeness to it, if no target has taken it before (as in
    the paper's code, where a target that finds it taken waits for its next turn).
    """
    documents, queries = normalized(embeddings), normalized(targets)
    similarity = np.full(len(documents), -np.inf)
    turn = np.full(len(documents), np.iinfo(np.int64).max)
    rank = np.empty(len(documents), np.int64)
    for v, query in enumerate(queries):
        cosine = documents @ query
        rank[np.argsort(-cosine, kind="stable")] = np.arange(len(documents))
        similarity = np.maximum(similarity, cosine)
        turn = np.minimum(turn, rank * len(queries) + v)
    return PrototypeScores(similarity, turn)
