"""Fill-in-the-middle and CodeGen2 rearrange the text: only special tokens are added, and nothing is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.denoising_examples import (
    EOD,
    FIRST,
    TOKENS,
    Example,
    examples,
    make_objective_batch,
    segment,
    split_documents,
    windows,
)
from pathways_lite.objectives.batches import unused_fraction
from pathways_lite.recipe import Causal, CodeGen2, Denoisers, FillInTheMiddle, WeightedDenoiser


def restore(example: Example) -> list[int]:
    """Return the text that an example was made of."""
    tokens = example.tokens
    if TOKENS.middle in tokens:
        assert sorted(t for t in tokens if t < FIRST) == [TOKENS.prefix, TOKENS.suffix, TOKENS.middle]
        return segment(tokens, TOKENS.prefix) + segment(tokens, TOKENS.middle) + segment(tokens, TOKENS.suffix)
    if TOKENS.separator not in tokens:
        return tokens[1:]
    cut = tokens.index(TOKENS.separator)
    assert tokens[cut - 1] == EOD
    head, tail = tokens[1 : cut - 1], tokens[cut + 1 :]
    sentinels = [t for t in head if t < FIRST]
    assert sentinels == [TOKENS.first_sentinel - i for i in range(len(sentinels))]
    text = []
    for token in head:
        text += [token] if token >= FIRST else segment(tail, token)
    ends = [i for i, token in enumerate(tail) if token == TOKENS.end_of_span]
    assert len(ends) == len(sentinels)
    assert ends[-1] == len(tail) - 1
    assert head[0] >= FIRST
    assert head[-1] >= FIRST
    return text


@pytest.mark.parametrize(
    "objective",
    [FillInTheMiddle(rate=0.8), FillInTheMiddle(rate=0.8, spm_variant=2), CodeGen2(rate=0.8, mean_span=3)],
    ids=["fill_in_the_middle", "spm_variant_2", "codegen2"],
)
@given(documents=st.floats(0, 20), seq_len=st.integers(8, 90), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_the_text_can_be_restored(objective: CodeGen2, documents: float, seq_len: int, seed: int) -> None:
    """Attention is causal and every position carries loss: it is a rearranged text."""
    x = windows(3, seq_len, documents, seed)
    batch = make_objective_batch(objective, x)
    for row in range(3):
        texts = split_documents(x[row])
        row_examples = examples(batch, row)
        for number, example in enumerate(row_examples):
            assert example.inputs == example.loss_from == 0
            text = restore(example)
            assert text == texts[number][: len(text)]
            if number < len(row_examples) - 1:
                assert len(text) == len(texts[number])
                assert example.end == EOD


def test_shares_and_orders() -> None:
    batch = make_objective_batch(FillInTheMiddle(rate=0.5, spm=0.25), windows(4000, 32, 0.0))
    starts = np.bincount(batch.tokens[:, 0], minlength=6) / 4000
    np.testing.assert_allclose(starts[[EOD, TOKENS.prefix, TOKENS.suffix]], [0.5, 0.375, 0.125], atol=0.03)
    batch = make_objective_batch(CodeGen2(rate=0.5, least=0.1, most=0.5), windows(2000, 64, 0.0))
    joint = make_objective_batch(FillInTheMiddle(rate=0.5, spm=0.25, spm_variant=2), windows(4000, 32, 0.0))
    starts = np.bincount(joint.tokens[:, 0], minlength=6) / 4000
    np.testing.assert_allclose(starts[[EOD, TOKENS.prefix, TOKENS.suffix]], [0.5, 0.5, 0], atol=0.03)
    assert 0.45 < np.mean((batch.tokens == TOKENS.separator).any(1)) < 0.55


def test_cuts_are_uniform() -> None:
    """Of n = 5 tokens: 15 pairs of different cuts among 6."""
    batch = make_objective_batch(FillInTheMiddle(rate=1, spm=0), windows(3000, 8, 0.0))
    marks = (TOKENS.prefix, TOKENS.middle)
    lengths = np.array([[len(segment(row.tolist(), mark)) for mark in marks] for row in batch.tokens])
    _, counted = np.unique(lengths, axis=0, return_counts=True)
    assert len(counted) == 15
    assert ((counted - 200) ** 2 / 200).sum() < 36  # chi-square, 14 degrees of freedom: p < 0.001


def test_mixed_with_causal_and_denoising_by_document() -> None:
    members = (WeightedDenoiser(weight=1, denoiser=Causal()), WeightedDenoiser(weight=1, denoiser=CodeGen2(rate=1.0)))
    batch = make_objective_batch(Denoisers(members=members), windows(50, 512, 6.0))
    masked = [TOKENS.separator in example.tokens for row in range(50) for example in examples(batch, row)]
    assert 0.35 < np.mean(masked) < 0.65  # documents of a row differ
    assert unused_fraction(batch) < 0.005
