"""Special tokens, windows of text whose tokens are all different, and rows taken apart into examples again."""

from dataclasses import dataclass

import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.objectives.batches import make_batch
from pathways_lite.recipe import Objective, SpecialTokens

EOD = 0
TOKENS = SpecialTokens(
    s2s=1, nlu=2, nlg=3, prefix=4, suffix=5, middle=6, separator=7, end_of_span=8, first_sentinel=999, sentinels=900
)
FIRST = 1000  # of the text's tokens
OPENERS = (EOD, 1, 2, 3, 4, 5)


def windows(rows: int, seq_len: int, documents: float, seed: int = 0) -> np.ndarray:
    """Rows of T + 1 tokens in which no token but EOD, that opens about so many documents, comes twice."""
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
    """One of a row: what it is made of, found by what each position sees."""

    tokens: list[int]
    inputs: int  # positions that see each other
    close: int  # what its last position predicts
    loss_from: int
    column: int


def examples(batch: Batch, row: int) -> list[Example]:
    """The row's examples; positions without use are left out."""
    start, stop = batch.spans.start[row], batch.spans.stop[row]
    found = []
    for column in np.unique(start).tolist():
        mine = np.flatnonzero(start == column)
        weights = batch.loss_weights[row, mine]
        if not weights.any():
            assert len(mine) == 1
            continue
        together = int(stop[column] - column)
        expected = np.maximum(np.arange(len(mine)) + 1, together if together > 1 else 0)
        assert (stop[mine] - column).tolist() == expected.tolist()
        assert batch.positions[row, mine].tolist() == list(range(len(mine)))
        tokens, targets = batch.tokens[row, mine].tolist(), batch.targets[row, mine].tolist()
        assert tokens[1:] == targets[:-1]
        loss_from = int(np.argmax(weights))
        assert (weights == (np.arange(len(mine)) >= loss_from)).all()
        found.append(Example(tokens, together if together > 1 else 0, targets[-1], loss_from, column))
    return found
