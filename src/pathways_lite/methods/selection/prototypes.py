"""K-means on embeddings of documents: how far each lies from its prototype, and clusters as groups of documents.

Sorscher et al. 2022 (arXiv 2206.14486, section 6): the distance to the nearest centroid tells easy documents (near)
from hard ones (far). Keep hard ones where data is abundant, easy ones where it is scarce.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

Distance = Literal["cosine", "euclidean"]

_SAMPLE = 1 << 16  # documents that centroids are found from
_BLOCK = 1 << 14  # documents whose distances are computed at once


class Clustered(NamedTuple):
    """Of each document, `[n]`."""

    cluster: np.ndarray  # int64
    distance: np.ndarray  # float64, to the cluster's centroid: Euclidean, or 1 - cosine of the angle


def cluster(embeddings: np.ndarray, k: int, distance: Distance, seed: int) -> Clustered:
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
    return Clustered(label, squared / 2 if distance == "cosine" else np.sqrt(squared))


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Vectors `[n, E]` scaled to length 1, float64; 0 stays 0."""
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _nearest(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest centroid, and the square of the distance to it."""
    label = np.argmin(np.sum(centroids**2, axis=1) - 2 * points @ centroids.T, axis=1)
    return label, np.sum((points - centroids[label]) ** 2, axis=1)
