"""Every schedule against its closed form in float64, on clocks with and without a batch-size ramp."""

from fractions import Fraction as Exact

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.ledger import Clock, Timeline
from pathways_lite.recipe import WSD, Constant, Cosine, Flops, Fraction, Linear, PaLM, Ramp, Steps, Tokens
from pathways_lite.training.schedules import schedule


def timeline(budget, ramp=((0, 4),), seq_len=8):
    return Timeline(Ramp(steps=ramp), seq_len, flops_per_token=10, active_parameters=1, budget=budget)


def values(config, timeline, steps):
    """The schedule at many steps at once."""
    clocks = [timeline.clock(int(step)) for step in steps]
    return np.asarray(schedule(config, timeline)(Clock(*(np.array(column) for column in zip(*clocks, strict=True)))))


STEP = np.arange(100)
AFTER_WARMUP = np.clip((STEP - 10) / 90, 0, 1)
LAST_20 = np.clip((STEP - 80) / 20, 0, 1)


@pytest.mark.parametrize(
    ("config", "fall"),
    [
        (Constant(warmup=Steps(n=10)), np.ones(100)),
        (Linear(warmup=Steps(n=10), end=0.25), 1 - 0.75 * AFTER_WARMUP),
        (Cosine(warmup=Steps(n=10), end=0.1), 0.1 + 0.9 * (1 + np.cos(np.pi * AFTER_WARMUP)) / 2),
        (WSD(warmup=Steps(n=10), decay=Steps(n=20), end=0.5), 1 - 0.5 * LAST_20),
        (WSD(warmup=Steps(n=10), decay=Steps(n=20), shape="one_minus_sqrt"), 1 - np.sqrt(LAST_20)),
        (PaLM(warmup=Steps(n=10), knee=Steps(n=50)), np.minimum(1, np.sqrt(50 / (STEP + 1)))),
    ],
)
def test_closed_form(config, fall):
    expected = np.minimum((STEP + 1) / 10, fall)
    np.testing.assert_allclose(values(config, timeline(Steps(n=100)), STEP), expected, rtol=3e-7, atol=1e-7)


def test_palm_is_the_smaller_of_1e_2_and_the_inverse_square_root_of_the_step_counted_from_one():
    k = np.array([1, 2, 9_999, 10_000, 10_001, 50_000, 255_000])
    rate = 1e-2 * values(PaLM(), timeline(Steps(n=255_000)), k - 1)
    np.testing.assert_allclose(rate, np.minimum(1e-2, k**-0.5), rtol=3e-7)
    np.testing.assert_array_equal(rate[:4], rate[0])


@pytest.mark.parametrize("unit", ["tokens", "flops", "fraction"])
@pytest.mark.parametrize("kind", [Cosine, WSD, PaLM])
def test_without_a_ramp_every_unit_says_the_same(kind, unit):
    amount = {
        "tokens": lambda n: Tokens(n=32 * n),
        "flops": lambda n: Flops(n=320 * n),
        "fraction": lambda n: Fraction(n=n / 100),
    }[unit]
    budget = {"tokens": Tokens(n=3200), "flops": Flops(n=32_000), "fraction": Steps(n=100)}[unit]
    point = {Cosine: {}, WSD: {"decay": 20}, PaLM: {"knee": 30}}[kind]
    in_steps = kind(warmup=Steps(n=10), **{name: Steps(n=n) for name, n in point.items()})
    in_units = kind(warmup=amount(10), **{name: amount(n) for name, n in point.items()})
    expected = values(in_steps, timeline(Steps(n=100)), STEP)
    np.testing.assert_allclose(values(in_units, timeline(budget), STEP), expected, rtol=1e-6, atol=1e-7)


ramps = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 8)), min_size=1, max_size=4).map(
    lambda parts: tuple((sum(n for n, _ in parts[:i]), size) for i, (_, size) in enumerate(parts))
)


@given(ramp=ramps, warmup=st.integers(1, 900), decay=st.integers(1, 900), budget=st.integers(1, 4000))
@settings(max_examples=40)
def test_under_a_ramp_lengths_in_tokens_stay_tokens(ramp, warmup, decay, budget):
    way = timeline(Tokens(n=budget), ramp)
    steps = np.linspace(0, way.total_steps - 1, 16).astype(int).tolist()  # one shape, so compiled once
    got = values(WSD(warmup=Tokens(n=warmup), decay=Tokens(n=decay)), way, steps)
    start = max(0, budget - decay)
    expected = [
        min(
            Exact(1),
            Exact(way.tokens_before(k + 1), warmup),
            1 - Exact(max(0, way.tokens_before(k) - start), budget - start),
        )
        for k in steps
    ]
    np.testing.assert_allclose(got, np.array(expected, float), rtol=1e-6, atol=1e-6)
    assert (got > 0).all()  # no step is wasted, neither the first nor the last
    assert (got <= 1).all()


@pytest.mark.parametrize("end", [0.0, 0.1, 1 / 3])
@pytest.mark.parametrize("tokens", [10**4, 10**13, 10**13 + 123_457])
@pytest.mark.parametrize("kind", [Linear, Cosine, WSD])
def test_ends_are_exact(kind, tokens, end):
    way = timeline(Tokens(n=tokens), ((0, tokens // 1000 // 8),))
    warmup = way.tokens_before(20)
    of = schedule(kind(warmup=Tokens(n=warmup), end=end), way)
    assert of(way.clock(0)) == np.float32(np.float32(way.tokens_before(1)) / np.float32(warmup))
    assert of(way.clock(19)) == 1.0  # the last step of the warm-up
    assert of(way.clock(20)) == 1.0  # the first step of the decay
    assert of(way.clock(way.total_steps)) == np.float32(end)


def test_ten_trillion_tokens_in_float32():
    """PaLM's 4M-token batch: single steps are below float32's resolution, the schedule's value is not hurt."""
    way = timeline(Tokens(n=10**13), ((0, 2048),), seq_len=2048)
    steps = np.linspace(0, way.total_steps - 1, 400).astype(int)
    share = np.array([max(0, way.tokens_before(int(k)) - 8 * 10**12) / (2 * 10**12) for k in steps])
    np.testing.assert_allclose(values(WSD(), way, steps), 1 - share, atol=6e-7)


def test_decay_begins_where_a_warmup_in_another_unit_ends():
    way = timeline(Tokens(n=3200), ((0, 2), (50, 6)))  # 16, then 48 tokens a step
    of = schedule(Linear(warmup=Steps(n=60)), way)
    assert of(way.clock(59)) == of(way.clock(60)) == 1.0
    left = 3200 - way.tokens_before(60)
    np.testing.assert_allclose(of(way.clock(61)), 1 - 48 / left, rtol=1e-6)


def test_a_stage_of_one_step_has_the_peak_and_a_stage_within_its_warmup_never_reaches_it():
    for kind in (Constant, Linear, Cosine, WSD, PaLM):
        assert values(kind(), timeline(Steps(n=1)), [0]) == 1.0
        np.testing.assert_allclose(values(kind(warmup=Steps(n=8)), timeline(Steps(n=2)), [0, 1]), [1 / 8, 2 / 8])


def test_traced_equals_eager():
    way = timeline(Tokens(n=3000), ((0, 2), (7, 3)))
    of = schedule(Cosine(warmup=Tokens(n=100)), way)
    for k in (0, 5, 7, 40):
        np.testing.assert_allclose(jax.jit(of)(way.clock(k)), of(way.clock(k)), rtol=1e-6)
