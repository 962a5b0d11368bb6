"""Infilling as it was trained: the gaps of the objective's own examples, made of held-out documents.

A denoiser's examples have as many sentinels and as long spans as in training. Each token of a gap is paired with itself
read from left to right in the same window, and content, the tokens of the text, is kept apart from format.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pathways_lite.document_frame import DocumentFrame
from pathways_lite.evaluation.denoisers import join_windows
from pathways_lite.evaluation.paired import GapScores, PairedLosses, join_pairs
from pathways_lite.evaluation.token_scores import Score, score_rows
from pathways_lite.objectives.batches import TracedBatch, make_traced_batch
from pathways_lite.objectives.causal import Boundaries, causal
from pathways_lite.recipe import Objective

AS_TRAINED = "as_trained"
_CHUNK_ROWS = 256  # rows made at once


def score_as_trained(
    score: Score,
    objective: Objective,
    documents: Sequence[np.ndarray],
    seq_len: int,
    *,
    frame: DocumentFrame,
    opener: int,
    boundaries: Boundaries,
    seed: int,
) -> GapScores | None:
    """Score the gaps of the training examples that `objective`, a denoiser, makes of held-out documents.

    The documents, as they stand in the corpus's stream, are joined to one and cut into windows, as for
    `denoiser_losses`. A gap's tokens are those that the model predicts having read text that comes after them: not the
    last span of T5's span corruption, with which the text ends. From left to right the same windows are read, without
    the denoiser. The parts are all tokens of the text with loss (content), and all others (format: sentinels, the end).
    None where the text is shorter than a window.
    """
    windows, document = join_windows(documents, seq_len), _documents_of_windows(documents, seq_len)
    chunks = [
        _score_chunk(score, objective, windows, document, first, frame, opener, boundaries, seed)
        for first in range(0, len(windows), _CHUNK_ROWS)
    ]
    if not chunks:
        return None
    parts = {
        part: (
            np.concatenate([chunk.parts[part][0] for chunk in chunks]),
            np.concatenate([chunk.parts[part][1] for chunk in chunks]),
        )
        for part in chunks[0].parts
    }
    return GapScores(
        join_pairs([chunk.pairs for chunk in chunks]),
        np.concatenate([chunk.exact for chunk in chunks]),
        np.concatenate([chunk.exact_document for chunk in chunks]),
        parts,
    )


def _score_chunk(
    score: Score,
    objective: Objective,
    windows: np.ndarray,
    document: np.ndarray,
    first: int,
    frame: DocumentFrame,
    opener: int,
    boundaries: Boundaries,
    seed: int,
) -> GapScores:
    """Score `_CHUNK_ROWS` windows [n, T + 1] from `first` on; `document` [n, T + 1]: the number of each token's."""
    windows, document = windows[first : first + _CHUNK_ROWS], document[first : first + _CHUNK_ROWS]
    example = first + np.arange(len(windows))
    traced = make_traced_batch(objective, windows, frame, boundaries, np.zeros_like(example), example, seed)
    batch = traced.batch
    scores = score_rows(score, batch.tokens, batch.targets, batch.positions, batch.spans)
    # Token t of a window is predicted at position t - 1; nothing predicts the first.
    left_to_right = np.full(windows.shape, np.nan)
    left_to_right[:, 1:] = _read_windows(score, windows, frame, opener, boundaries)
    gap = traced.follows_later_text
    source = traced.target_source[gap]
    paired = ~np.isnan(left_to_right.ravel()[source])
    source = source[paired]
    pairs = PairedLosses(scores.nll[gap][paired], left_to_right.ravel()[source], document.ravel()[source])
    exact, exact_source = _exact_gaps(traced, scores.likeliest)
    # A special token belongs to the document of the text before it in its row.
    owner = document.ravel()[np.maximum.accumulate(np.maximum(traced.input_source, _row_starts(windows)), axis=1)]
    parts = {
        part: (scores.nll[chosen], owner[chosen])
        for part, chosen in {"content": traced.is_content, "format": traced.is_format}.items()
    }
    return GapScores(pairs, exact, document.ravel()[exact_source], parts)


def _row_starts(windows: np.ndarray) -> np.ndarray:
    """Return the index of each window's first token in the flat windows, [n, 1]."""
    return np.arange(len(windows))[:, None] * windows.shape[1]


def _documents_of_windows(documents: Sequence[np.ndarray], seq_len: int) -> np.ndarray:
    """Return the number of each token's document in the windows of `join_windows`, [n, T + 1]."""
    return join_windows([np.full(len(document), number) for number, document in enumerate(documents)], seq_len)


def _read_windows(
    score: Score, windows: np.ndarray, frame: DocumentFrame, opener: int, boundaries: Boundaries
) -> np.ndarray:
    """Return the nats of windows [B, T + 1] read from left to right, float64 [B, T]."""
    number = np.arange(len(windows))
    batch = causal(windows, frame, boundaries, number, number)
    opens = batch.tokens == frame.opens
    if boundaries == "none":
        opens[:, 1:] = False  # a window is one text, in which the opening token is one like others
    tokens = np.where(opens, np.int32(opener), batch.tokens)
    return score_rows(score, tokens, batch.targets, batch.positions, batch.spans).nll


def _exact_gaps(traced: TracedBatch, likeliest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for every gap whether greedy decoding would write and end it, and the source of its first token."""
    gap = np.pad(traced.follows_later_text, ((0, 0), (1, 1))).astype(np.int8)
    row, start = np.nonzero(np.diff(gap, axis=1) == 1)
    stop = np.nonzero(np.diff(gap, axis=1) == -1)[1]
    # A special token ends a gap, so the position after its last token is still one of the example's.
    exact = [bool(likeliest[r, a : b + 1].all()) for r, a, b in zip(row, start, stop, strict=True)]
    return np.array(exact, bool), traced.target_source[row, start]
