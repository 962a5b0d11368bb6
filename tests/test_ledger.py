"""The clock is closed-form arithmetic. It must equal a walk over the steps one by one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathways_lite.ledger import Ledger, LengthPhase, Seconds, Timeline
from pathways_lite.recipe import Flops, Fraction, Ramp, Steps, Tokens


def make_timeline(ramp: Ramp | None = None, budget: object = None) -> Timeline:
    return Timeline(ramp or Ramp(steps=((0, 4),)), 16, 1000, 50, budget or Steps(n=20))


ramps = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4).map(
    lambda phases: Ramp(
        steps=tuple((sum(length for length, _ in phases[:i]), size) for i, (_, size) in enumerate(phases))
    )
)


@given(ramps, st.integers(0, 60))
def test_closed_form_equals_walking(ramp: Ramp, step: int) -> None:
    timeline = make_timeline(ramp)
    walked = sum(timeline.sequences_at(k) for k in range(step))
    assert timeline.sequences_before(step) == walked
    assert timeline.tokens_before(step) == 16 * walked
    assert timeline.flops_before(step) == 16_000 * walked


@given(ramps, st.integers(1, 5000))
def test_steps_for_is_the_first_step_that_reaches_the_amount(ramp: Ramp, tokens: int) -> None:
    timeline = make_timeline(ramp, Tokens(n=tokens))
    total = timeline.total_steps
    assert timeline.tokens_before(total) >= tokens > timeline.tokens_before(total - 1)
    assert timeline.steps_for(Flops(n=float(timeline.flops_before(total)))) == total
    half = timeline.steps_for(Fraction(n=0.5))
    assert timeline.progress(half) >= 0.5 > timeline.progress(half - 1)


@given(ramps, st.booleans(), st.integers(0, 60))
def test_a_warm_up_counts_each_length_as_it_is(ramp: Ramp, shorter_batches: bool, step: int) -> None:
    lengths = (LengthPhase(0, 4, 700), LengthPhase(6, 8, 800), LengthPhase(17, 16, 1000))
    timeline = replace(make_timeline(ramp), lengths=lengths, shorter_batches=shorter_batches)
    tokens = flops = 0
    for k in range(step):
        phase = lengths[(k >= 6) + (k >= 17)]
        batch = ramp.sequences_at(k) * (phase.seq_len if shorter_batches else 16)
        assert (timeline.seq_len_at(k), timeline.sequences_at(k)) == (phase.seq_len, batch // phase.seq_len)
        tokens, flops = tokens + batch, flops + batch * phase.flops_per_token
    assert (timeline.tokens_before(step), timeline.flops_before(step)) == (tokens, flops)
    assert timeline.sparse_flops_before(step) == flops
    assert timeline.active_parameter_tokens_before(step) == 50 * tokens


def test_palm_540b_trains_776_billion_tokens() -> None:
    """PaLM section 5: 512 sequences to step 50k, 1024 to 115k, 2048 to 255k; methods: 775.9 B tokens."""
    timeline = Timeline(Ramp(steps=((0, 512), (50_000, 1024), (115_000, 2048))), 2048, 1, 1, Steps(n=255_000))
    assert round(timeline.tokens_before(255_000) / 1e9, 1) == 775.9


def test_the_device_clock_is_a_function_of_the_step() -> None:
    clock = make_timeline().clock(10)
    assert (clock.step, clock.tokens, clock.flops, clock.progress) == (10, 640, 640_000, 0.5)
    assert [np.asarray(x).dtype for x in clock] == [np.int32, np.float32, np.float32, np.float32]


def test_counts_are_exact_where_float64_is_not() -> None:
    timeline = Timeline(Ramp(steps=((0, 2048),)), 2048, 3_241_926_400_001, 540_354_300_001, Steps(n=255_001))
    ledger = Ledger().after(timeline, 255_001)
    assert ledger.flops == 255_001 * 2048 * 2048 * 3_241_926_400_001
    assert ledger.flops != int(float(ledger.flops))
    assert Ledger.from_json(ledger.to_json()) == ledger


def test_ledgers_add_up_along_a_chain() -> None:
    timeline = make_timeline()
    base = Ledger(seconds=Seconds(train=3.0)).after(timeline, 20)
    total = base + Ledger(seconds=Seconds(train=1.0, save=2.0)).after(timeline, 5)
    assert (total.steps, total.tokens, total.flops) == (25, 1600, 1_600_000)
    assert total.seconds == Seconds(train=4.0, save=2.0)
    assert total.seconds.goodput == pytest.approx(4 / 6)
    assert total.average_active_parameters == 50


def test_what_is_not_known_of_a_part_is_not_known_of_the_whole() -> None:
    known = Ledger(steps=3, tokens=30, flops=300, sparse_flops=200)
    stated, unknown = Ledger(flops=10, cost_elsewhere="stated"), Ledger(cost_elsewhere="unknown")
    assert (known + known).cost_elsewhere is None
    assert (known + stated).cost_elsewhere == "stated"
    assert (stated + unknown + known).cost_elsewhere == (unknown + stated - known).cost_elsewhere == "unknown"
    assert (known + unknown).after(make_timeline(), 2).cost_elsewhere == "unknown"
    for ledger in (known, stated, unknown):
        assert Ledger.from_json(ledger.to_json()) == ledger
    assert "cost_elsewhere" not in known.to_json(), "what was written before is written still"
    with pytest.raises(ValueError, match="cost_elsewhere='free' is none of"):
        Ledger.from_json(known.to_json() | {"cost_elsewhere": "free"})
