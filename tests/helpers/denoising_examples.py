"""Special tokens, windows of text whose tokens all differ, and the examples of packed rows."""

from dataclasses import dataclass

import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.objectives.batches import make_batch
from pathways_lite.recipe import Objective, SpecialTokens

EOD = 0
FRAME = DocumentFrame(EOD)
TOKENS = SpecialTokens(
    s2s=1, nlu=2, nlg=3, prefix=4, suffix=5, middle=6, separator=7, end_of_span=8, first_sentinel=999, sentinels=900
)
FIRST = 1000  # the smallest token of text
START_TOKENS = (EOD, 1, 2, 3, 4, 5)


def windows(rows: int, seq_len: int, documents: float, seed: int = 0) -> np.ndarray:
    """Return rows of T + 1 tokens, all different except EOD, which opens about `documents` documents per row."""
    rng = np.random.default_rng(seed)
    x = FIRST + np.arange(rows * (seq_len + 1)).reshape(rows, seq_len + 1)
    x[rng.random(x.shape) < documents / seq_len] = EOD
    return x


def make_objective_batch(
    objective: Objective, x: np.ndarray, boundaries: str = "document", example: np.ndarray | None = None
) -> Batch:
    """Make a batch of the windows by the objective, with `TOKENS` as its special tokens."""
    objective = objective.model_copy(update={"tokens": TOKENS})
    numbers = np.arange(len(x)) if example is None else example
    return make_batch(objective, x, FRAME, boundaries, np.zeros(len(x)), numbers, seed=3)  # type: ignore[arg-type]


@dataclass
class Example:
    """One example of a packed row, recovered from the spans of its positions."""

    tokens: list[int]
    inputs: int  # number of leading positions with bidirectional attention
    end: int  # the target of the last position
    loss_from: int  # the first position with a loss
    column: int  # where the example starts in the row


def examples(batch: Batch, row: int) -> list[Example]:
    """Recover the examples of a row, without its unused positions, and check that each is well formed."""
    start, stop = batch.spans.start[row], batch.spans.stop[row]
    result = []
    for column in np.unique(start).tolist():
        columns = np.flatnonzero(start == column)
        weights = batch.loss_weights[row, columns]
        if not weights.any():
            assert len(columns) == 1
            continue
        visible = int(stop[column] - column)  # to the first position
        inputs = visible if visible > 1 else 0
        expected = np.maximum(np.arange(len(columns)) + 1, inputs)
        assert (stop[columns] - column).tolist() == expected.tolist()
        assert batch.positions[row, columns].tolist() == list(range(len(columns)))
        tokens, targets = batch.tokens[row, columns].tolist(), batch.targets[row, columns].tolist()
        assert tokens[1:] == targets[:-1]
        loss_from = int(np.argmax(weights))
        assert (weights == (np.arange(len(columns)) >= loss_from)).all()
        result.append(Example(tokens, inputs, targets[-1], loss_from, column))
    return result


def split_documents(window: np.ndarray) -> list[list[int]]:
    """Return the documents of all tokens but the last, without EOD."""
    documents: list[list[int]] = [[]] if window[0] != EOD else []
    for token in window[:-1].tolist():
        if token == EOD:
            documents.append([])
        else:
            documents[-1].append(token)
    return documents


def segment(tokens: list[int], special: int) -> list[int]:
    """Return the tokens of text after a special token, up to the next special token."""
    rest = tokens[tokens.index(special) + 1 :]
    return rest[: next((i for i, token in enumerate(rest) if token < FIRST), len(rest))]
