"""Special tokens, windows of text whose tokens are all different, and the way back from rows to examples."""

from dataclasses import dataclass

import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.objectives.batches import make_batch
from pathways_lite.recipe import Objective, SpecialTokens

EOD = 0
TOKENS = SpecialTokens(
    s2s=1, nlu=2, nlg=3, prefix=4, suffix=5, middle=6, separator=7, end_of_span=8, first_sentinel=999, sentinels=900
)
FIRST = 1000  # the smallest token of the text
START_TOKENS = (EOD, 1, 2, 3, 4, 5)


def windows(rows: int, seq_len: int, documents: float, seed: int = 0) -> np.ndarray:
    """Return rows of T + 1 tokens with about `documents` EODs each; no other token occurs twice."""
    rng = np.random.default_rng(seed)
    x = FIRST + np.arange(rows * (seq_len + 1)).reshape(rows, seq_len + 1)
    x[rng.random(x.shape) < documents / seq_len] = EOD
    return x


def batch_of(
    objective: Objective, x: np.ndarray, boundaries: str = "document", example: np.ndarray | None = None
) -> Batch:
    objective = objective.model_copy(update={"tokens": TOKENS})
    numbers = np.arange(len(x)) if example is None else example
    return make_batch(objective, x, EOD, boundaries, np.zeros(len(x)), numbers, seed=3)  # type: ignore[arg-type]


@dataclass
class Example:
    """An example of a row, identified by what each position sees."""

    tokens: list[int]
    inputs: int  # positions that see each other
    end: int  # what its last position predicts
    loss_from: int
    column: int


def examples(batch: Batch, row: int) -> list[Example]:
    """Return the row's examples; unused positions are left out."""
    start, stop = batch.spans.start[row], batch.spans.stop[row]
    row_examples = []
    for column in np.unique(start).tolist():
        columns = np.flatnonzero(start == column)
        weights = batch.loss_weights[row, columns]
        if not weights.any():
            assert len(columns) == 1
            continue
        seen_by_first = int(stop[column] - column)
        inputs = seen_by_first if seen_by_first > 1 else 0
        expected = np.maximum(np.arange(len(columns)) + 1, inputs)
        assert (stop[columns] - column).tolist() == expected.tolist()
        assert batch.positions[row, columns].tolist() == list(range(len(columns)))
        tokens, targets = batch.tokens[row, columns].tolist(), batch.targets[row, columns].tolist()
        assert tokens[1:] == targets[:-1]
        loss_from = int(np.argmax(weights))
        assert (weights == (np.arange(len(columns)) >= loss_from)).all()
        row_examples.append(Example(tokens, inputs, targets[-1], loss_from, column))
    return row_examples
