"""The spike guard's decisions, on made-up losses."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.data.order import DataCursor, locate_rows
from pathways_lite.ledger import Timeline
from pathways_lite.recipe import Ramp, SpikeGuard, Steps
from pathways_lite.training.spike_guard import GuardState, Halt, Proceed, Rewind, observe

NAN = math.nan


def watch(config, rows, state=None):
    """The state after all rows, and every decision. A row is a loss, or (loss, ok)."""
    state = state or GuardState()
    decisions = []
    for row in rows:
        loss, ok = row if isinstance(row, tuple) else (row, math.isfinite(row))
        state, decision = observe(config, state, step=state.step, loss=loss, ok=ok)
        decisions.append(decision)
    return state, decisions


def calm(n):
    return [3.0 + 0.01 * (i % 7) for i in range(n)]


@pytest.mark.parametrize("policy", ["halt", "skip", "rewind"])
def test_a_calm_run_goes_on(policy):
    state, decisions = watch(SpikeGuard(policy=policy, threshold=1.0, window=5), calm(40))
    assert set(decisions) == {Proceed()}
    assert (state.step, state.dropped, state.spikes, state.rewinds) == (40, 0, 0, 0)
    assert list(state.losses) == calm(40)[-5:]


@pytest.mark.parametrize("row", [NAN, math.inf, (3.0, False)])
def test_halt_names_the_step_and_what_to_do(row):
    _, decisions = watch(SpikeGuard(policy="halt"), [*calm(7), row])
    assert isinstance(decisions[-1], Halt)
    assert "step 7" in decisions[-1].reason
    assert "guard.policy=rewind" in decisions[-1].reason


def test_a_spike_is_measured_from_the_median_of_a_full_window():
    config = SpikeGuard(policy="halt", threshold=1.0, window=4)
    steady = [3.0, 3.0, 3.0, 9.0]  # the median is unmoved by the one that is far off
    assert isinstance(watch(config, [*steady, 3.9])[1][-1], Proceed)
    assert isinstance(watch(config, [*steady, 4.1])[1][-1], Halt)
    assert isinstance(watch(config, [3.0, 3.0, 3.0, 4.1])[1][-1], Proceed)  # not yet a window to judge by
    assert isinstance(watch(SpikeGuard(policy="halt", window=4), [*steady, 99.0])[1][-1], Proceed)  # no threshold


def test_skip_counts_what_was_dropped_and_what_could_not_be_undone():
    config = SpikeGuard(policy="skip", threshold=1.0, window=5)
    state, decisions = watch(config, [*calm(10), NAN, *calm(3), 7.0, (3.0, False), *calm(3)])
    assert set(decisions) == {Proceed()}
    assert (state.dropped, state.spikes, state.dropped_in_a_row) == (2, 1, 0)
    assert 7.0 in state.losses  # a new level would become the median in time
    assert all(map(math.isfinite, state.losses))


def test_skip_does_not_burn_the_budget_on_a_run_that_is_dead():
    config = SpikeGuard(policy="skip", window=5)
    _, decisions = watch(config, [*calm(3), *[NAN] * 5])
    assert [type(d) for d in decisions] == [Proceed] * 7 + [Halt]
    assert "nothing is being trained" in decisions[-1].reason


def test_rewind_goes_back_and_covers_the_batches_seen_before_and_during_the_spike():
    config = SpikeGuard(policy="rewind", threshold=1.0, window=5, rewind_steps=10, skip_batches=25)
    state, decisions = watch(config, [*calm(30), 6.0])
    assert isinstance(decisions[-1], Rewind)
    assert (decisions[-1].to_step, decisions[-1].skip) == (20, (20, 25))
    assert "step 30" in decisions[-1].reason
    assert state.rewinds == 1

    early = watch(config, [*calm(3), NAN])[1][-1]
    assert (early.to_step, early.skip) == (0, (0, 25))


def test_rewinds_are_counted_through_the_restored_checkpoint_and_end_in_a_halt():
    config = SpikeGuard(policy="rewind", window=5, rewind_steps=4, max_rewinds=2)
    saved, _ = watch(config, calm(8))
    state = saved
    for _ in range(2):
        state, decisions = watch(config, [*calm(2), NAN], state)
        assert isinstance(decisions[-1], Rewind)
        state = state.rewound_to(saved)
        assert (state.step, state.losses) == (saved.step, saved.losses)
    _, decisions = watch(config, [*calm(2), NAN], state)
    assert isinstance(decisions[-1], Halt)
    assert "max_rewinds=2" in decisions[-1].reason


def test_steps_must_come_in_order():
    state, _ = watch(SpikeGuard(), calm(3))
    with pytest.raises(ValueError, match="expects step 3, not 4"):
        observe(SpikeGuard(), state, step=4, loss=3.0, ok=True)


losses = st.lists(st.one_of(st.floats(0, 12, width=32), st.just(NAN)), min_size=1, max_size=60)


@given(rows=losses, policy=st.sampled_from(["halt", "skip", "rewind"]), data=st.data())
@settings(max_examples=60)
def test_a_resumed_guard_decides_as_the_uninterrupted_one(rows, policy, data):
    config = SpikeGuard(policy=policy, threshold=1.5, window=4, rewind_steps=3)
    cut = data.draw(st.integers(0, len(rows)))
    state, before = watch(config, rows[:cut])
    restored = GuardState.from_json(json.loads(json.dumps(state.to_json())))
    assert restored == state
    resumed, after = watch(config, rows[cut:], restored)
    assert (resumed, before + after) == watch(config, rows)


ramps = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 5)), min_size=1, max_size=4).map(
    lambda parts: tuple((sum(n for n, _ in parts[:i]), size) for i, (_, size) in enumerate(parts))
)


@given(
    spikes=st.lists(st.integers(0, 25), min_size=1, max_size=5),
    rewind=st.integers(1, 6),
    skip=st.integers(1, 9),
    ramp=ramps,
    old=st.booleans(),
)
@settings(max_examples=80)
def test_no_example_from_around_a_spike_ever_comes_again(spikes, rewind, skip, ramp, old):
    """Also where spike follows spike, the recipe skips less than it goes back, and the batch size grows."""
    config = SpikeGuard(policy="rewind", rewind_steps=rewind, skip_batches=skip)
    timeline = Timeline(Ramp(steps=ramp), seq_len=1, flops_per_token=1, active_parameters=1, budget=Steps(n=1000))
    step, cursor, banned = 0, DataCursor(), set()

    def examples(first, last):
        return {int(n) for t in range(first, last + 1) for n in locate_rows(timeline, t, skips=cursor.skips).example}

    for distance in spikes:
        spike = step + distance
        assert not examples(step, spike) & banned
        _, decision = observe(config, GuardState(step=spike), step=spike, loss=NAN, ok=False)
        banned |= examples(decision.to_step, spike)
        step = decision.to_step
        sequences = decision.skipped_sequences(timeline, cursor)
        assert sequences >= skip * timeline.sequences_at(step)
        if old:  # the checkpoint that reaches back far enough may be older than an earlier, later-reaching skip
            cursor = DataCursor(skips=tuple(entry for entry in cursor.skips if entry[0] <= step))
        cursor = cursor.with_skip(step, sequences)


@pytest.mark.parametrize("policy", ["halt", "skip", "rewind"])
def test_parameters_that_are_not_finite_are_given_up_by_every_policy(policy):
    config = SpikeGuard(policy=policy, rewind_steps=3)
    state, decision = observe(config, GuardState(step=7), step=7, loss=2.0, ok=True, usable=False)
    assert isinstance(decision, Rewind if policy == "rewind" else Halt)
    assert "update of step 7 is not finite" in decision.reason
    assert state.dropped_in_a_row == 1
    assert not state.losses
