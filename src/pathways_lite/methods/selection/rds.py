"""RDS+: documents whose embeddings are like those of a target set (Ivison et al. 2025, arXiv 2503.01807).

An embedding is the mean of a language model's last hidden states, each weighted by its position, as later ones have
seen more of the text. Targets take turns: each in turn takes the document that is most like it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pathways_lite.methods.selection.prototypes import normalized


class Alike(NamedTuple):
    """Of each document, `[n]`."""

    similarity: np.ndarray  # float64, cosine, with the target that is most like it
    turn: np.ndarray  # int64: in which turn it is taken; documents are kept in this order


def alike(embeddings: np.ndarray, targets: np.ndarray) -> Alike:
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
    return Alike(similarity, turn)
