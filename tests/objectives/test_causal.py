"""The causal objective: what each position sees and predicts."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.batch import Batch
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.objectives.causal import causal

EOD = 9
FRAME = DocumentFrame(EOD)


def windows(max_rows: int = 4) -> st.SearchStrategy[np.ndarray]:
    """Rows of small ids, with many document boundaries."""
    shape = st.tuples(st.integers(1, max_rows), st.integers(2, 24))
    ids = st.sampled_from([0, 1, 2, 3, EOD])
    return shape.flatmap(
        lambda s: st.lists(ids, min_size=s[0] * s[1], max_size=s[0] * s[1]).map(
            lambda flat: np.array(flat, np.uint16).reshape(s)
        )
    )


def make(x: np.ndarray, boundaries: str = "document") -> Batch:
    rows = np.arange(len(x))
    return causal(x, FRAME, boundaries, rows % 3, rows)  # type: ignore[arg-type]


@given(windows())
@settings(max_examples=60)
def test_types_and_shift(x: np.ndarray) -> None:
    batch = make(x)
    assert {a.dtype for a in (batch.tokens, batch.targets, batch.positions, *batch.spans, batch.domain)} == {
        np.dtype(np.int32)
    }
    assert batch.loss_weights.dtype == np.float32
    assert batch.sample_id.dtype == np.uint32
    assert batch.tokens[:, 1:].tolist() == batch.targets[:, :-1].tolist()
    assert np.concatenate([batch.tokens[:, :1], batch.targets], axis=1).tolist() == x.tolist()
    assert (batch.loss_weights == 1).all()


@given(windows())
@settings(max_examples=100)
def test_spans_are_the_document_up_to_the_query(x: np.ndarray) -> None:
    """Against the definition, position by position."""
    batch = make(x)
    for b, row in enumerate(batch.tokens):
        opened = 0
        for t, token in enumerate(row):
            if token == EOD:
                opened = t
            seen = range(batch.spans.start[b, t], batch.spans.stop[b, t])
            assert seen == range(opened, t + 1)
            # No document but the query's own: of all that it sees only the first may open one.
            assert EOD not in row[seen.start + 1 : seen.stop]
            assert batch.positions[b, t] == t - opened


@given(windows(max_rows=1))
@settings(max_examples=60)
def test_packed_equals_separate(x: np.ndarray) -> None:
    """Every document of a packed row has the tokens, targets, positions and spans of a row of its own."""
    packed = make(x)
    row = x[0]
    starts = sorted({0, *np.flatnonzero(row[:-1] == EOD).tolist()})
    for start, stop in zip(starts, [*starts[1:], len(row) - 1], strict=True):
        alone = make(row[None, start : stop + 1])
        for name in ("tokens", "targets", "positions"):
            assert getattr(packed, name)[0, start:stop].tolist() == getattr(alone, name)[0].tolist()
        for together, separate in zip(packed.spans, alone.spans, strict=True):
            assert (together[0, start:stop] - start).tolist() == separate[0].tolist()


@given(windows())
@settings(max_examples=30)
def test_without_boundaries_it_is_plain_causal(x: np.ndarray) -> None:
    batch = make(x, "none")
    length = x.shape[1] - 1
    assert (batch.spans.start == 0).all()
    assert (batch.spans.stop == np.arange(1, length + 1)).all()
    assert (batch.positions == np.arange(length)).all()


def test_sample_id_holds_64_bits() -> None:
    examples = np.array([0, 2**32 - 1, 2**32, 3 * 2**40 + 5], np.int64)
    x = np.zeros((4, 3), np.uint16)
    high, low = causal(x, FRAME, "none", np.zeros(4), examples).sample_id.astype(np.uint64).T
    assert ((high << np.uint64(32)) + low).tolist() == examples.tolist()
