"""Where the tokens of an example come from: content and format, and what is predicted after later text was read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.denoising_examples import EOD, FIRST, FRAME, TOKENS, make_objective_batch, windows
from pathways_lite.objectives.batches import make_traced_batch
from pathways_lite.objectives.denoisers import infilling_denoiser
from pathways_lite.recipe import (
    UL2R,
    Causal,
    CodeGen2,
    Denoisers,
    FillInTheMiddle,
    Objective,
    PrefixLM,
    SpanCorruption,
    WeightedDenoiser,
)

OBJECTIVES = {
    "ul2r": UL2R(),
    "spans": SpanCorruption(rate=0.4, mean_span=3, mode="nlu"),
    "psm": FillInTheMiddle(rate=0.8, spm=0),
    "spm": FillInTheMiddle(rate=0.8, spm=0.5),
    "codegen2": CodeGen2(rate=0.8, mean_span=3),
    "causal": Causal(),
}


@pytest.mark.parametrize("boundaries", ["document", "none"])
@pytest.mark.parametrize("name", OBJECTIVES)
@given(documents=st.floats(0, 10), seq_len=st.integers(8, 60), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_the_batch_is_the_same_and_sources_name_its_tokens(
    name: str, boundaries: str, documents: float, seq_len: int, seed: int
) -> None:
    """All tokens of text differ, so a token says where it stood; what the model has read follows from the spans."""
    x = windows(3, seq_len, documents, seed)
    objective = OBJECTIVES[name]
    if not isinstance(objective, Causal):
        objective = objective.model_copy(update={"tokens": TOKENS})
        expected = make_objective_batch(objective, x, boundaries)
    ways = (FRAME, boundaries, np.zeros(3), np.arange(3), 3)
    traced = make_traced_batch(objective, x, *ways)
    batch = traced.batch
    if not isinstance(objective, Causal):
        for made, wanted in zip((*batch[:4], *batch.spans), (*expected[:4], *expected.spans), strict=True):
            np.testing.assert_array_equal(made, wanted)
    has_loss = batch.loss_weights > 0
    is_text = batch.targets >= FIRST if boundaries == "document" else traced.target_source >= 0
    np.testing.assert_array_equal(traced.is_content, has_loss & is_text)
    np.testing.assert_array_equal(traced.is_format, has_loss & ~is_text)
    content = traced.target_source[traced.is_content]
    np.testing.assert_array_equal(x.ravel()[content], batch.targets[traced.is_content])
    for row, position in np.ndindex(has_loss.shape):
        if boundaries == "none" and EOD in x[row]:
            continue  # there EOD is a token like others, which does not say where it stood
        seen = batch.tokens[row, batch.spans.start[row, position] : batch.spans.stop[row, position]]
        target = batch.targets[row, position]
        if target >= FIRST and has_loss[row, position]:
            assert traced.follows_later_text[row, position] == bool((seen > target).any())
        elif boundaries == "document":
            assert not traced.follows_later_text[row, position]


def test_only_gaps_with_text_after_them_count() -> None:
    """Of span corruption all spans but the last, of the middle all, and nothing of what is read in order."""

    def share(objective: Objective) -> float:
        x = windows(40, 64, 0.0)
        corrupted = objective if isinstance(objective, Causal) else objective.model_copy(update={"tokens": TOKENS})
        traced = make_traced_batch(corrupted, x, FRAME, "document", np.zeros(40), np.arange(40), 3)
        return float(traced.follows_later_text.sum() / traced.is_content.sum())

    assert share(Causal()) == 0
    assert share(PrefixLM(mode="s2s")) == 0
    assert share(SpanCorruption(rate=0.15, mean_span=32)) == 0  # one span, at the end
    assert 0.6 < share(SpanCorruption(rate=0.15, mean_span=3)) < 0.8  # two or three spans
    assert 0.2 < share(FillInTheMiddle(rate=1, spm=0)) < 0.45  # a third of the text


def test_the_denoiser_of_prompts_for_gaps() -> None:
    """Regular span corruption comes first, and fill-in-the-middle without its causal share."""
    assert infilling_denoiser(Causal()) is None
    assert infilling_denoiser(PrefixLM(mode="s2s")) is None
    regular = infilling_denoiser(UL2R(tokens=TOKENS, layout="fixed"))
    assert regular == SpanCorruption(rate=0.15, mean_span=3, mode="nlu", tokens=TOKENS, layout="fixed")
    assert infilling_denoiser(FillInTheMiddle(rate=0.5)) == FillInTheMiddle(rate=1, spm=0)
    assert infilling_denoiser(FillInTheMiddle(rate=0.5, spm=1)) is None  # its prefix, too, is read after the suffix
    members = [Causal(), FillInTheMiddle(), CodeGen2(rate=0.3), SpanCorruption(mode="nlg")]
    mixtures = [
        Denoisers(members=tuple(WeightedDenoiser(weight=1, denoiser=denoiser) for denoiser in members[:count]))
        for count in (1, 2, 3, 4)
    ]
    kinds = [None if denoiser is None else denoiser.kind for denoiser in map(infilling_denoiser, mixtures)]
    assert kinds == [None, "fill_in_the_middle", "codegen2", "span_corruption"]
