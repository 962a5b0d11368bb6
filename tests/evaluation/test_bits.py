import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.evaluation.bits import (
    Evaluator,
    HeldOutLoss,
    ScoredDocument,
    Window,
    pack_windows,
    split_windows,
    windows_to_batch,
)
from pathways_lite.objectives.causal import causal
from pathways_lite.recipe import Model

EOD, VOCAB = 0, 50
FRAME = DocumentFrame(EOD)
DOCUMENTS = st.lists(st.lists(st.integers(1, VOCAB - 1), max_size=40), max_size=12)

TINY = Model(d_model=16, n_layers=2, n_heads=2, head_dim=8, d_ff=32, vocab_size=VOCAB, dtype="float32")


def stored(texts: list[list[int]]) -> list[tuple[np.ndarray, int]]:
    return [(np.array([EOD, *text], np.int32), 3 * len(text) + 1) for text in texts]


@pytest.fixture(scope="module")
def params() -> models.Params:
    return jax.jit(models.init, static_argnums=0)(TINY, jax.random.key(0))


def model_losses(params: models.Params, batch: Batch) -> jax.Array:
    return models.token_losses(TINY, params, batch)[0]


def visible_sum(params: float, batch: Batch) -> jax.Array:
    """A stand-in for a model, whose loss reveals what it sees: targets, positions and the span's tokens."""
    before = jnp.pad(jnp.cumsum(batch.tokens, axis=1), ((0, 0), (1, 0)))
    seen = jnp.take_along_axis(before, batch.spans.stop, 1) - jnp.take_along_axis(before, batch.spans.start, 1)
    return params * (batch.targets * 1000.0 + batch.positions * 100.0 + seen)


@given(texts=DOCUMENTS, length=st.integers(1, 50), overlap=st.integers(0, 20))
def test_every_token_is_scored_exactly_once(texts: list[list[int]], length: int, overlap: int) -> None:
    overlap = min(overlap, length - 1)
    for document, _ in stored(texts):
        windows = split_windows(document, length, overlap)
        scored = [target for window in windows for target in window.targets[len(window.targets) - window.scored :]]
        assert scored == [*document[1:], EOD]
        assert all(1 <= window.scored <= len(window.tokens) <= length for window in windows)
        assert all(len(window.tokens) == min(length, window.scored + overlap) for window in windows[1:])


@given(lengths=st.lists(st.integers(1, 30), max_size=60))
def test_packing_places_every_window_once_and_wastes_little(lengths: list[int]) -> None:
    rows = pack_windows(lengths, 30)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 30 for row in rows)
    assert len(rows) <= 11 / 9 * math.ceil(sum(lengths) / 30) * 2
    # No two rows could be one.
    filled = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(filled) < 2 or filled[0] + filled[1] > 30


@settings(max_examples=25)
@given(texts=DOCUMENTS, rows=st.sampled_from([1, 3]), order=st.randoms(use_true_random=False))
def test_the_result_depends_only_on_the_documents(texts: list[list[int]], rows: int, order: object) -> None:
    """Each document has the same score alone as in any row and batch."""
    documents, length = stored(texts), 16
    evaluate = Evaluator(visible_sum, rows=rows, seq_len=length)
    expected = 0.0
    for document, _ in documents:
        for first in range(0, len(document), length):
            window = document[first : first + length]
            targets = np.append(document, EOD)[first + 1 : first + 1 + len(window)]
            expected += float(np.sum(targets * 1000.0 + np.arange(len(window)) * 100.0 + np.cumsum(window)))
    order.shuffle(documents)  # type: ignore[attr-defined]
    result = evaluate(1.0, documents)
    assert result.nll == pytest.approx(expected)
    assert result.tokens == sum(len(text) + 1 for text in texts)
    assert result.bytes == sum(3 * len(text) + 1 for text in texts)
    assert result.documents == len(texts)


@pytest.mark.parametrize("length", [3, 16, 19, 20, 40])
def test_the_beginning_of_a_document_is_scored_as_in_the_whole(length: int) -> None:
    """Its predictions are the first ones of the whole document, without an EOD after it."""
    ((document, _),) = stored([np.random.default_rng(1).integers(1, VOCAB, size=39).tolist()])
    whole = Evaluator(visible_sum, rows=1, seq_len=16)
    beginning = whole(1.0, [ScoredDocument(document[:length], 7, is_whole=False)])
    assert (beginning.tokens, beginning.bytes, beginning.documents) == (length - 1, 7, 1)
    windows = split_windows(document, 16)
    targets = np.concatenate([window.targets for window in windows])[: length - 1]
    cut = split_windows(document[:length], 16, is_whole=False)
    assert np.concatenate([window.targets for window in cut]).tolist() == targets.tolist()
    assert sum(window.scored for window in cut) == length - 1


def test_lossy_results_stay_lossy_when_they_are_added() -> None:
    lossy = HeldOutLoss(1.0, 2, 3, 1, lossy=True)
    assert (lossy + HeldOutLoss(1.0, 2, 3, 1)).to_json()["lossy"] is True
    assert "lossy" not in HeldOutLoss(1.0, 2, 3, 1).to_json()


def test_a_real_model_gives_the_same_for_every_batch_size_and_packing(params: models.Params) -> None:
    rng = np.random.default_rng(0)
    documents = stored([rng.integers(1, VOCAB, size=n).tolist() for n in (5, 40, 1, 0, 16, 15, 17, 70, 3)])
    one, four = (Evaluator(model_losses, rows=rows, seq_len=16) for rows in (1, 4))
    apart = sum((one(params, [document]) for document in documents), HeldOutLoss())
    for result in (one(params, documents), four(params, documents[::-1])):
        assert result.nll == pytest.approx(apart.nll, rel=1e-6)
        assert (result.tokens, result.bytes, result.documents) == (apart.tokens, apart.bytes, apart.documents)


def test_documents_are_scored_as_training_scores_them() -> None:
    """A row that the documents fill exactly equals what the training objective makes of their stream."""
    documents = stored([[5, 6, 7, 3, 2, 1], [9, 10, 11, 12], [8]])  # the longest first, as in packing
    stream = np.concatenate([tokens for tokens, _ in documents] + [np.array([EOD])])
    trained = causal(stream[None], FRAME, "document", np.zeros(1), np.zeros(1))
    scored = windows_to_batch([[window for tokens, _ in documents for window in split_windows(tokens, 14)]], 1, 14)
    jax.tree.map(np.testing.assert_array_equal, scored, trained)
    assert Evaluator(visible_sum, rows=1, seq_len=14)(1.0, documents).nll == float(jnp.sum(visible_sum(1.0, trained)))


def test_context_repeated_at_cuts_is_read_and_not_scored() -> None:
    document = np.array([EOD, 1, 2, 3, 4, 5], np.int32)
    windows = split_windows(document, length=4, overlap=2)
    assert [window.tokens.tolist() for window in windows] == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert [window.scored for window in windows] == [4, 2]
    batch = windows_to_batch([windows[1:]], 1, 6)
    assert batch.loss_weights.tolist() == [[0, 0, 1, 1, 0, 0]]
    assert batch.spans.start.tolist() == [[0, 0, 0, 0, 4, 5]]


def test_with_an_overlap_each_token_is_scored_with_the_context_it_is_promised(params: models.Params) -> None:
    """Against one row per token: the first window as it is, later tokens with `overlap` tokens and their window's."""
    length, overlap = 16, 5
    rng = np.random.default_rng(3)
    documents = stored([rng.integers(1, VOCAB, size=n).tolist() for n in (61, 15, 16, 3, 0, 27)])
    rows = []
    for document, _ in documents:
        targets = np.append(document[1:], document[:1])
        for t in range(len(document)):
            first = 0 if t < length else (t - length) // (length - overlap) * (length - overlap) + length - overlap
            assert t < length or t - first >= overlap
            rows.append([Window(document[first : t + 1], targets[first : t + 1], scored=1)])
    brute = windows_to_batch(rows, len(rows), length)
    expected = float(np.sum(np.float64(jax.jit(model_losses)(params, brute)), where=brute.loss_weights > 0))
    result = Evaluator(model_losses, rows=3, seq_len=length, overlap=overlap)(params, documents)
    assert result.nll == pytest.approx(expected, rel=1e-6)
    assert result.tokens == len(rows)
    plain = Evaluator(model_losses, rows=3, seq_len=length)(params, documents)
    assert plain.nll != pytest.approx(expected, rel=1e-6)
    assert result.to_json()["overlap"] == (result + HeldOutLoss()).overlap == overlap
    assert "overlap" not in plain.to_json()


def test_it_compiles_once_and_padding_may_be_anything() -> None:
    traces = []

    def losses(params: float, batch: Batch) -> jax.Array:
        traces.append(batch.tokens.shape)
        return jnp.where(batch.loss_weights > 0, params, jnp.nan)

    evaluate = Evaluator(losses, rows=2, seq_len=8)
    assert evaluate(math.log(2), stored([[1] * 99, [2], []])).nll == pytest.approx(103 * math.log(2))
    assert evaluate(math.log(2), stored([[3]])).bits_per_byte == pytest.approx(2 / 4)
    assert traces == [(2, 8)]


def test_an_exception_between_batches_ends_the_evaluation() -> None:
    seen = []

    def between(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Evaluator(visible_sum, rows=1, seq_len=4)(1.0, stored([[1] * 15]), between_batches=between)
    assert seen == [(1, 4), (2, 4)]


def test_quotients() -> None:
    result = HeldOutLoss(nll=math.log(2) * 600, tokens=200, bytes=400, documents=1) + HeldOutLoss()
    assert result.loss == pytest.approx(3 * math.log(2))
    assert result.perplexity == pytest.approx(8)
    assert result.bits_per_byte == pytest.approx(1.5)
    assert result.to_json()["bits_per_byte"] == result.bits_per_byte
    nothing = HeldOutLoss()
    assert all(math.isnan(value) for value in (nothing.loss, nothing.bits_per_byte, nothing.perplexity))
    assert HeldOutLoss(nll=1e6, tokens=1).perplexity == math.inf


def test_an_overlap_as_long_as_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap=8"):
        Evaluator(visible_sum, rows=1, seq_len=8, overlap=8)
