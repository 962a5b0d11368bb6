"""Span corruption and prefix LM: T5's algorithms, packed."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import span_corruption_reference as t5
from helpers.denoising_examples import (
    EOD,
    FIRST,
    FRAME,
    TOKENS,
    examples,
    make_objective_batch,
    split_documents,
    windows,
)
from pathways_lite.objectives.batches import make_batch, unused_fraction
from pathways_lite.objectives.denoisers import ExampleFormat, denoiser_specs, split_mixture
from pathways_lite.objectives.span_corruption import count_noise, random_partition, raw_length
from pathways_lite.recipe import (
    UL2,
    UL2R,
    CodeGen2,
    Denoisers,
    FillInTheMiddle,
    PrefixLM,
    SpanCorruption,
    WeightedDenoiser,
)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((512, 0.15, 3), (568, 114)),
        ((512, 0.15, 8), (588, 100)),
        ((512, 0.5, 3), (766, 512)),
        ((512, 0.5, 8), (908, 512)),
        ((512, 0.15, 64), (600, 92)),
        ((512, 0.5, 64), (1006, 512)),
        ((1024, 0.15, 3), (1137, 229)),
        ((1024, 0.15, 32), (1197, 187)),
        ((1024, 0.5, 3), (1534, 1024)),
        ((1024, 0.5, 32), (1984, 1024)),
    ],
)
def test_raw_lengths_are_t5s(arguments: tuple[int, float, float], expected: tuple[int, int]) -> None:
    assert raw_length(*arguments) == expected


def test_the_reference_gives_t5s_own_example() -> None:
    tokens, mask = list(range(1, 11)), [bool(int(digit)) for digit in "0010011001"]
    assert t5.corrupt(tokens, mask, 99) == (
        [1, 2, 99, 4, 5, 98, 8, 9, 97],
        [99, 3, 98, 6, 7, 97, 10],
    )


def counts(n: int, rate: float, mean_span: float) -> tuple[int, int]:
    noise, spans = count_noise(*(np.array([value]) for value in (n, rate, mean_span, 0)))
    return int(noise[0]), int(spans[0])


@given(st.integers(2, 3000), st.floats(0.01, 0.6), st.floats(1, 70))
def test_counts_are_t5s_if_there_are_enough_clean_tokens(length: int, rate: float, mean_span: float) -> None:
    noise, spans = counts(length, rate, mean_span)
    expected_noise, expected_spans = t5.noise_counts(length, rate, mean_span)
    assert noise == expected_noise
    assert spans == min(expected_spans, length - noise, noise)


def test_halves_are_rounded_to_even() -> None:
    """10 x 0.25 = 2.5 tokens are 2, not 3; 6 noise tokens in spans of 4 are 2 spans, 10 are 2 as well."""
    assert [counts(n, 0.25, 4) for n in (10, 24, 40)] == [(2, 1), (6, 2), (10, 2)]


@pytest.mark.parametrize("x", [windows(6, 64, 0.0), windows(6, 64, 3.0), windows(6, 300, 40.0)])
@pytest.mark.parametrize("setting", [(0.15, 3), (0.5, 3), (0.5, 8), (0.15, 32)])
def test_examples_are_t5s(x: np.ndarray, setting: tuple[float, float]) -> None:
    """Recover the mask from the inputs: from that mask T5's rules give the same inputs and targets."""
    rate, mean_span = setting
    batch = make_objective_batch(SpanCorruption(rate=rate, mean_span=mean_span, mode="nlu"), x)
    for row in range(len(x)):
        documents = split_documents(x[row])
        row_examples = examples(batch, row)
        assert len(documents) >= len(row_examples)
        for number, example in enumerate(row_examples):
            assert example.tokens[0] == TOKENS.nlu
            text = [token for token in example.tokens if token >= FIRST]
            document = documents[number][: len(text)]
            if len(text) < 2:
                assert example.tokens[1:] == document
                assert example.loss_from == example.inputs == 0
                continue
            kept = set(example.tokens[: example.inputs])
            mask = [token not in kept for token in document]
            inputs, targets = t5.corrupt(document, mask, TOKENS.first_sentinel)
            assert example.tokens == [TOKENS.nlu, *inputs, *targets]
            assert example.inputs == 1 + len(inputs)
            assert example.loss_from == len(inputs)  # the last of the inputs predicts the first target
            assert example.end == EOD
            noise, spans = t5.noise_counts(len(document), rate, mean_span)
            assert sum(mask) == noise
            assert sum(1 for t in targets if t < FIRST) == min(spans, noise, len(document) - noise)
            assert not mask[0]
            assert mask[-1]
            if number < len(row_examples) - 1:
                assert document == documents[number]  # only the last of a row may be cut


@given(st.floats(0, 30), st.integers(4, 80), st.integers(0, 99))
@settings(max_examples=30)
def test_a_prefix_lm_fills_the_row_with_the_windows_text(documents: float, seq_len: int, seed: int) -> None:
    """The window's text is unchanged, with a mode token for every EOD; each example has inputs and a continuation."""
    x = windows(3, seq_len, documents, seed)
    batch = make_objective_batch(PrefixLM(mode="s2s"), x)
    assert unused_fraction(batch) == 0
    for row in range(3):
        text = x[row] if x[row, 0] == EOD else np.append(EOD, x[row])
        assert np.where(batch.tokens[row] == TOKENS.s2s, EOD, batch.tokens[row]).tolist() == text[:seq_len].tolist()
        assert batch.targets[row].tolist() == text[1 : seq_len + 1].tolist()
        for example in examples(batch, row):
            n = len(example.tokens) - 1
            assert (2 <= example.inputs <= n) if n > 1 else example.inputs == 0


def test_the_split_is_uniform() -> None:
    """Of 8 tokens after a mode token, 1 to 7 are inputs."""
    batch = make_objective_batch(PrefixLM(), windows(7000, 9, 0.0))
    counted = np.bincount(batch.spans.stop[:, 0] - 1, minlength=8)[1:]
    assert len(counted) == 7
    assert (np.abs(counted - 1000) < 5 * 30).all()


def test_every_composition_is_equally_likely() -> None:
    """6 tokens in 3 lengths: C(5, 2) = 10 ways."""
    rng, n = np.random.default_rng(0), 5000
    totals, counts = np.full(n, 6), np.full(n, 3)
    drawn = random_partition(totals, counts, rng.integers(0, 2**64, 6 * n, np.uint64)).reshape(n, 3)
    assert (drawn.sum(1) == 6).all()
    assert (drawn > 0).all()
    _, counted = np.unique(drawn, axis=0, return_counts=True)
    assert len(counted) == 10
    assert ((counted - n / 10) ** 2 / (n / 10)).sum() < 30  # chi-square, 9 degrees of freedom: p < 0.0005


@given(st.sampled_from([UL2R(), UL2()]), st.integers(0, 2**40), st.sampled_from([0.0, 4.0]))
@settings(max_examples=10)
def test_a_row_depends_on_its_number_alone(objective: UL2R, first: int, documents: float) -> None:
    x = windows(5, 96, documents)
    numbers = first + np.array([4, 0, 3, 2, 9])
    together = make_objective_batch(objective, x, example=numbers)
    for row in range(5):
        alone = make_objective_batch(objective, x[row : row + 1], example=numbers[row : row + 1])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a[row], b[0])


def test_large_batches_are_made_in_blocks() -> None:
    x = windows(40, 8192, 9.0)
    whole, last_rows = make_objective_batch(UL2R(), x), make_objective_batch(UL2R(), x[32:], example=np.arange(32, 40))
    np.testing.assert_array_equal(whole.tokens[32:], last_rows.tokens)
    assert unused_fraction(whole) < 0.005


@pytest.mark.parametrize(("objective", "seq_len"), [(UL2R(), 2048), (UL2(), 2048), (UL2R(), 256), (UL2(), 256)])
@pytest.mark.parametrize("boundaries", ["document", "none"])
def test_hardly_any_position_is_unused(objective: UL2R, seq_len: int, boundaries: str) -> None:
    batch = make_objective_batch(objective, windows(200, seq_len, 3.0), boundaries)
    assert unused_fraction(batch) < 0.005
    per_row = np.mean((batch.spans.stop - batch.spans.start == 1) & (batch.loss_weights == 0), axis=1)
    assert per_row.max() <= 2 / seq_len
    starts, stops = batch.spans
    assert (np.diff(starts) >= 0).all()
    assert (np.diff(stops) >= 0).all()


def test_weights_of_ul2r() -> None:
    assert list(split_mixture(UL2R())) == ["prefix_lm", "spans_32_0.15", "spans_3_0.5", "spans_3_0.15"]
    assert [(spec.weight, spec.mode) for spec in denoiser_specs(UL2R())] == [
        (0.5, "s2s"),
        (0.125, "nlg"),
        (0.125, "nlg"),
        (0.25, "nlu"),
    ]
    assert list(split_mixture(UL2())) == [
        "spans_3_0.15", "spans_8_0.15", "spans_3_0.5", "spans_8_0.5", "spans_64_0.15", "spans_64_0.5", "prefix_lm",
    ]  # fmt: skip
    batch = make_objective_batch(UL2R(), windows(2000, 64, 0.0))
    modes = np.bincount(batch.tokens[:, 0], minlength=4)[1:4] / 2000
    np.testing.assert_allclose(modes, [0.5, 0.25, 0.25], atol=0.05)


def test_the_fixed_layout_is_ul2rs() -> None:
    """One example a row: at most half the sequence for inputs and half for targets, the rest empty."""
    seq_len = 256
    x = windows(60, seq_len, 2.0)
    fixed = make_objective_batch(UL2R(layout="fixed"), x, "none")
    row_examples = [example for row in range(60) for example in examples(fixed, row)]
    assert len(row_examples) == 60
    assert 0.1 < unused_fraction(fixed) < 0.6
    for example in row_examples:
        assert example.inputs <= seq_len // 2
        assert len(example.tokens) - example.inputs <= seq_len // 2
        if example.tokens[0] == TOKENS.nlu:
            assert sum(t >= FIRST or t == EOD for t in example.tokens) == raw_length(seq_len // 2, 0.15, 3)[0]


def test_a_custom_mixture() -> None:
    members = (
        WeightedDenoiser(weight=3, denoiser=SpanCorruption(mean_span=5)),
        WeightedDenoiser(weight=1, denoiser=PrefixLM()),
    )
    objective = Denoisers(members=members)
    assert [spec.weight for spec in denoiser_specs(objective)] == [0.75, 0.25]
    split = split_mixture(objective)
    assert list(split) == ["spans_5_0.15", "prefix_lm"]
    assert denoiser_specs(split["prefix_lm"]) == denoiser_specs(PrefixLM())


def test_denoisers_with_the_same_label_are_numbered() -> None:
    """Infilling at a rate of 0, where a sweep starts, is causal."""
    denoisers = [FillInTheMiddle(spm=0), FillInTheMiddle(spm=1), CodeGen2(rate=0), CodeGen2(rate=0)]
    split = split_mixture(
        Denoisers(members=tuple(WeightedDenoiser(weight=1, denoiser=denoiser) for denoiser in denoisers))
    )
    assert list(split) == ["fill_in_the_middle", "fill_in_the_middle_2", "codegen2"]
    formats = [[spec.format for spec in denoiser_specs(objective)] for objective in split.values()]
    assert formats == [[ExampleFormat.PSM], [ExampleFormat.SPM], [ExampleFormat.CAUSAL]]
    make_batch(split["codegen2"], windows(2, 64, 3.0), FRAME, "document", np.zeros(2), np.arange(2), seed=0)
