"""Select documents by score, and score them by embeddings: k-means prototypes and RDS+.

A selection keeps a fraction of the corpus's tokens, not of its documents: half of the data is half an epoch, however
long the documents are.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.extras import install_command

# ---- selection by score ----

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
    """Select documents in order of score until the `share` of all tokens is reached; bool `[n]`, true where kept.

    The document in which it is reached is kept if more than half of it fits. Of equal scores, the earlier document is
    first.

    Args:
      score: score of each document, `[n]`, finite.
      tokens: number of tokens of each document, integers `[n]`.
      share: the fraction of all tokens to keep, in (0, 1].
      which: the end (or the middle) of the scores to keep.
      groups: the group of each document, integers `[n]`.
      floor: each group keeps at least this fraction of what it would keep if every group kept the same `share`, by its
        own scores. Sorscher et al. 2022 (arXiv 2206.14486, section 6) set 0.5 for classes. With 1, selection is within
        each group, and the budget that whole documents leave goes to the first documents over all groups.
    """
    kept = np.zeros(len(score), bool)
    if groups is not None and floor:
        for group in np.unique(groups):
            members = np.flatnonzero(groups == group)
            budget = floor * share * float(tokens[members].sum())
            kept[members[_take_cheapest(_cost(score[members], tokens[members], which), tokens[members], budget)]] = True
    rest = np.flatnonzero(~kept)
    budget = share * float(tokens.sum()) - float(tokens[kept].sum())
    kept[rest[_take_cheapest(_cost(score, tokens, which)[rest], tokens[rest], budget)]] = True
    return kept


def _take_cheapest(cost: np.ndarray, tokens: np.ndarray, budget: float) -> np.ndarray:
    """Return the indices of the documents with the lowest cost whose tokens add up to about `budget`."""
    order = np.argsort(cost, kind="stable")
    return order[_token_midpoints(tokens[order]) < budget]


def _cost(score: np.ndarray, tokens: np.ndarray, which: Which) -> np.ndarray:
    """Map scores to costs: documents with the lowest are kept first."""
    if which != "middle":
        return score if which == "bottom" else -score
    order = np.argsort(score, kind="stable")
    quantile = np.empty(len(score))
    quantile[order] = _token_midpoints(tokens[order]) / max(1, tokens.sum())
    return np.abs(quantile - 0.5)


def _token_midpoints(tokens: np.ndarray) -> np.ndarray:
    """Return the position of each document's middle in the concatenation of all."""
    return np.cumsum(tokens) - tokens / 2


# ---- k-means prototypes ----

Distance = Literal["cosine", "euclidean"]

_SAMPLE = 1 << 16  # documents that centroids are fitted to
_BLOCK = 1 << 14  # documents whose distances are computed at once


class Clusters(NamedTuple):
    """The cluster of each document, and the distance from its centroid, `[n]`."""

    cluster: np.ndarray  # int64
    distance: np.ndarray  # float64: Euclidean, or 1 - cosine of the angle


def require_k_means() -> None:
    """Raise UserError where k-means is not installed, for callers that have long work before it."""
    try:
        import sklearn.cluster  # noqa: F401
        import threadpoolctl  # noqa: F401
    except ImportError as error:
        raise UserError(f"k-means is scikit-learn's, an extra: {install_command('selection')}") from error


def cluster(embeddings: np.ndarray, k: int, distance: Distance, seed: int) -> Clusters:
    """Cluster `embeddings` float `[n, E]` by k-means into `k` clusters, or `n` if less; deterministic for a seed.

    The distance from the nearest centroid separates easy documents (near) from hard ones (far): keep hard ones where
    data is abundant, easy ones where it is scarce (Sorscher et al. 2022, arXiv 2206.14486, section 6).

    Centroids are fitted to at most 65,536 documents, drawn by the seed; then all documents are assigned. For cosine
    distance, embeddings and fitted centroids have length 1; spherical k-means also scales in every iteration.

    Raises UserError where the extra `selection` is not installed.
    """
    require_k_means()
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    points = normalize(embeddings) if distance == "cosine" else np.asarray(embeddings, np.float64)
    sample = np.random.default_rng(seed).permutation(len(points))[:_SAMPLE]
    # With several threads the order of sums, and with it the last digits, would differ from run to run.
    with threadpool_limits(1, user_api="openmp"):
        kmeans = KMeans(min(k, len(sample)), n_init=4, random_state=seed).fit(points[np.sort(sample)])
    centroids = normalize(kmeans.cluster_centers_) if distance == "cosine" else kmeans.cluster_centers_
    blocks = [_nearest(points[start : start + _BLOCK], centroids) for start in range(0, len(points), _BLOCK)]
    label, squared = (np.concatenate(column) for column in zip(*blocks, strict=True))
    # For vectors of length 1: |a - b|^2 = 2 (1 - cosine).
    return Clusters(label, squared / 2 if distance == "cosine" else np.sqrt(squared))


def normalize(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors `[n, E]` to length 1, float64; 0 stays 0."""
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _nearest(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the nearest centroid and the squared distance from it, for each point."""
    label = np.argmin(np.sum(centroids**2, axis=1) - 2 * points @ centroids.T, axis=1)
    return label, np.sum((points - centroids[label]) ** 2, axis=1)


# ---- RDS+ ----


class PrototypeScores(NamedTuple):
    """Scores of each document by its similarity with the targets, `[n]`."""

    similarity: np.ndarray  # float64, cosine, with the most similar target
    turn: np.ndarray  # int64, the turn in which a target takes it; documents are kept in this order


def prototype_scores(embeddings: np.ndarray, targets: np.ndarray, tasks: np.ndarray | None = None) -> PrototypeScores:
    """Score the documents `[n, E]` by RDS+: a round-robin of the targets `[q, E]`, q > 0, over similar documents.

    Ivison et al. 2025, arXiv 2503.01807. An embedding is the mean of a language model's last hidden states, weighted by
    position, as later states are of more context. In turn i q + v, target v takes the document of rank i in similarity
    to it, unless another target has taken it. Then v waits for its next turn, as in the paper's code.

    With several tasks, tasks take turns instead, however many targets each has, and the similarity to a task is that to
    the most similar of its targets, as in the paper's code for several tasks.

    Args:
      tasks: the task of each target, integers `[q]` from 0 on; None or one task: targets take turns.
    """
    queries, norms = normalize(targets), _norms(embeddings)
    groups = list(queries[:, None])
    if tasks is not None and np.any(tasks):
        groups = [queries[tasks == task] for task in np.unique(tasks)]
    similarity = np.full(len(embeddings), -np.inf)
    turn = np.full(len(embeddings), np.iinfo(np.int64).max)
    rank = np.empty(len(embeddings), np.int64)
    for v, group in enumerate(groups):
        cosine = np.max([_cosines(embeddings, norms, query) for query in group], axis=0)
        rank[np.argsort(-cosine, kind="stable")] = np.arange(len(embeddings))
        similarity = np.maximum(similarity, cosine)
        turn = np.minimum(turn, rank * len(groups) + v)
    return PrototypeScores(similarity, turn)


def _norms(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths of vectors `[n, E]`, float64 `[n]`; a block at a time, as there may be millions."""
    blocks = (np.asarray(vectors[i : i + _BLOCK], np.float64) for i in range(0, len(vectors), _BLOCK))
    norms = np.concatenate([np.linalg.norm(block, axis=1) for block in blocks] or [np.empty(0)])
    return np.maximum(norms, np.finfo(np.float64).tiny)


def _cosines(vectors: np.ndarray, norms: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return the cosines of vectors `[n, E]` of lengths `norms` with a unit vector, float64 `[n]`."""
    blocks = (np.asarray(vectors[i : i + _BLOCK], np.float64) for i in range(0, len(vectors), _BLOCK))
    return np.concatenate([block @ unit for block in blocks] or [np.empty(0)]) / norms
