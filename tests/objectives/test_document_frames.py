"""Batches of documents that BOS opens and EOS closes: packed ≡ separate, the loss is on EOS, never on BOS."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.denoising_examples import EOD, FIRST, TOKENS, examples
from helpers.denoising_examples import FRAME as EOD_FRAME
from pathways_lite.batch import Batch
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.methods.reweighting import weigh
from pathways_lite.objectives.batches import make_batch, make_traced_batch
from pathways_lite.objectives.causal import causal
from pathways_lite.objectives.prompts import PromptFormat, left_to_right
from pathways_lite.recipe import (
    UL2R,
    Causal,
    CodeGen2,
    FillInTheMiddle,
    LinUpper,
    Objective,
    PrefixLM,
    Reweighting,
    SpanCorruption,
)

BOS, EOS = 50, 51
FRAME = DocumentFrame(BOS, EOS)
OBJECTIVES: dict[str, Objective] = {
    "ul2r": UL2R(tokens=TOKENS),
    "prefix": PrefixLM(tokens=TOKENS),
    "spans": SpanCorruption(rate=0.4, mode="nlu", tokens=TOKENS),
    "fim": FillInTheMiddle(rate=0.7, tokens=TOKENS),
    "codegen2": CodeGen2(rate=0.8, mean_span=3, tokens=TOKENS),
}
lengths = st.lists(st.integers(0, 12), min_size=1, max_size=9)


def stream(sizes: list[int]) -> tuple[list[list[int]], np.ndarray]:
    """Texts of these sizes, all of whose tokens differ, and the stream of their documents."""
    tokens = iter(range(FIRST, FIRST + 999))
    texts = [[next(tokens) for _ in range(size)] for size in sizes]
    return texts, np.concatenate([FRAME.to_stream(np.array([BOS, *text])) for text in texts])


def batch(
    objective: Objective, windows: np.ndarray, boundaries: str = "document", frame: DocumentFrame = FRAME
) -> Batch:
    number = np.arange(len(windows))
    return make_batch(objective, windows, frame, boundaries, number, number, seed=3)  # type: ignore[arg-type]


@given(sizes=lengths, offset=st.integers(0, 20), extra=st.integers(2, 40))
@settings(max_examples=50)
def test_packed_documents_are_read_as_separate_ones(sizes: list[int], offset: int, extra: int) -> None:
    """Of each position: what it sees, predicts and weighs is what it would be with its document alone."""
    _, tokens = stream(sizes)
    window = tokens[offset : offset + extra]
    if len(window) < 2:
        return
    packed = causal(window[None], FRAME, "document", np.zeros(1), np.zeros(1))
    begins = [0, *(i for i in range(1, len(window) - 1) if window[i] == BOS)]
    for begin, end in zip(begins, [*begins[1:], len(window) - 1], strict=True):
        alone = causal(window[None, begin : end + 1], FRAME, "document", np.zeros(1), np.zeros(1))
        for a, b in (
            (packed.tokens, alone.tokens),
            (packed.targets, alone.targets),
            (packed.positions, alone.positions),
        ):
            np.testing.assert_array_equal(a[:, begin:end], b)
        np.testing.assert_array_equal(packed.loss_weights[:, begin:end], alone.loss_weights)
        np.testing.assert_array_equal(packed.spans.start[:, begin:end] - begin, alone.spans.start)
        np.testing.assert_array_equal(packed.spans.stop[:, begin:end] - begin, alone.spans.stop)


@pytest.mark.parametrize("boundaries", ["document", "none"])
@given(sizes=lengths, seq_len=st.integers(2, 40))
@settings(max_examples=30)
def test_every_token_but_bos_carries_loss_in_a_causal_batch(boundaries: str, sizes: list[int], seq_len: int) -> None:
    _, tokens = stream(sizes)
    count = (len(tokens) - 1) // seq_len
    if not count:
        return
    windows = tokens[np.arange(count)[:, None] * seq_len + np.arange(seq_len + 1)]
    made = batch(Causal(), windows, boundaries)
    np.testing.assert_array_equal(made.loss_weights, made.targets != BOS)
    predicted = tokens[1 : count * seq_len + 1]
    assert made.loss_weights.sum() == sum(predicted != BOS)
    assert (made.targets[made.loss_weights > 0] == EOS).sum() == sum(predicted == EOS)


@pytest.mark.parametrize("name", OBJECTIVES)
@given(sizes=lengths, offset=st.integers(0, 12), seq_len=st.integers(16, 40))
@settings(max_examples=25)
def test_examples_of_denoisers_are_the_documents_texts(name: str, sizes: list[int], offset: int, seq_len: int) -> None:
    """EOS is predicted where an example ends, and read by none of them but CodeGen2, which ends its text with it."""
    texts, tokens = stream([*sizes, 60])
    windows = tokens[None, offset : offset + seq_len + 1]
    if windows.shape[1] <= seq_len:
        return
    made = batch(OBJECTIVES[name], windows)
    has_loss = made.loss_weights > 0
    assert not (made.targets[has_loss] == BOS).any()
    assert not (has_loss & (made.tokens == EOS)).any() or name == "codegen2"
    for example in examples(made, 0):
        text = sorted(token for token in example.tokens if token >= FIRST)
        owners = {number for number, of in enumerate(texts) if set(text) & set(of)}
        assert len(owners) <= 1
        if name == "prefix":
            assert example.tokens[0] == BOS
            assert example.end == EOS or example.end == text[-1] + 1
        assert example.tokens.count(EOS) == (name == "codegen2" and TOKENS.separator in example.tokens)


@pytest.mark.parametrize("name", OBJECTIVES)
@given(size=st.integers(1, 30))
@settings(max_examples=15)
def test_an_example_is_that_of_the_other_form_with_its_tokens_exchanged(name: str, size: int) -> None:
    texts, tokens = stream([size, 60])
    eod = np.concatenate([[EOD, *text] for text in texts])
    framed, unframed = (
        examples(batch(OBJECTIVES[name], x[None, :65], frame=frame), 0)[0]
        for x, frame in ((tokens, FRAME), (eod, EOD_FRAME))
    )
    exchanged = [{BOS: EOD, EOS: EOD}.get(token, token) for token in framed.tokens]
    assert exchanged == unframed.tokens
    assert (framed.loss_from, framed.inputs) == (unframed.loss_from, unframed.inputs)
    assert (framed.end, unframed.end) == (EOS, EOD)


@pytest.mark.parametrize("boundaries", ["document", "none"])
@pytest.mark.parametrize("name", OBJECTIVES)
@given(sizes=lengths, seed=st.integers(0, 9))
@settings(max_examples=10)
def test_sources_are_those_of_the_batch(name: str, boundaries: str, sizes: list[int], seed: int) -> None:
    _, tokens = stream([*sizes, 70])
    windows, number = tokens[None, :49], np.array([seed])
    made = make_batch(OBJECTIVES[name], windows, FRAME, boundaries, number, number, 3)  # type: ignore[arg-type]
    traced = make_traced_batch(OBJECTIVES[name], windows, FRAME, boundaries, number, number, 3)  # type: ignore[arg-type]
    for a, b in zip((*made[:4], *made.spans), (*traced.batch[:4], *traced.batch.spans), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        windows.ravel()[traced.target_source[traced.is_content]], made.targets[traced.is_content]
    )
    if boundaries == "document":
        np.testing.assert_array_equal(traced.is_content, (made.loss_weights > 0) & (made.targets >= FIRST))


def test_prompts_open_with_bos_and_end_at_eos() -> None:
    assert left_to_right([7, 8], FRAME) == ([BOS, 7, 8], 0, EOS)
    asked = PromptFormat.from_objective(Causal(), FRAME)
    assert asked.continuation([7, 8]) == ([BOS, 7, 8], 0, EOS)
    assert asked.text([7, EOS, BOS, 8]) == [7, 8]
    gaps = PromptFormat.from_objective(CodeGen2(tokens=TOKENS), FRAME).infill([[7], [8]])
    assert gaps.tokens == [BOS, 7, TOKENS.first_sentinel, 8, EOS, TOKENS.separator]
    assert PromptFormat.from_objective(UL2R(tokens=TOKENS), FRAME).continuation([7], "s2s").end == EOS


def test_documents_are_weighted_by_the_losses_of_their_text_and_end() -> None:
    _, tokens = stream([5, 0, 9, 7])
    made = causal(tokens[None], FRAME, "document", np.zeros(1), np.zeros(1))
    losses = np.random.default_rng(0).random((1, len(tokens) - 1), np.float32)
    rule = Reweighting(rule=LinUpper(), sample="document")
    weights = np.asarray(weigh(rule, losses, made))
    other = np.asarray(weigh(rule, np.where(made.targets == BOS, 99, losses), made))
    has_loss = made.loss_weights > 0
    np.testing.assert_allclose(other[has_loss], weights[has_loss], rtol=1e-6)
    starts = np.asarray(made.spans.start)[0]
    of_documents = [np.unique(weights[0][(starts == start) & has_loss[0]]) for start in np.unique(starts)]
    assert [len(values) for values in of_documents] == [1] * 4
    means = [losses[0][(starts == start) & has_loss[0]].mean() for start in np.unique(starts)]
    assert (np.diff(np.concatenate(of_documents)[np.argsort(means)]) >= 0).all()
    assert len(np.unique(np.concatenate(of_documents))) > 1
