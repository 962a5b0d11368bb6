"""Mixtures: the papers' shares, exact counts in closed form, no sequence twice, resuming, two stages, RS2."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.data.mixture import (
    MixedOrder,
    ResolvedPhase,
    floor_sum,
    loss_weights,
    resolve_phases,
    shares,
    unimax,
)
from pathways_lite.data.order import Order
from pathways_lite.errors import UserError
from pathways_lite.ledger import Timeline
from pathways_lite.methods.reweighting import domain_factors
from pathways_lite.recipe import (
    Data,
    DataMixture,
    Fraction,
    GivenWeights,
    MixturePhase,
    Ramp,
    Steps,
    Temperature,
    UniMax,
    cooldown,
    upsampling,
)

SIZES, NAMES = [2733, 162, 39, 1], ["en", "it", "zh", "sw"]  # arXiv 2410.04579
TIMELINE = Timeline(
    Ramp(steps=((0, 4), (50, 8))), seq_len=1, flops_per_token=1, active_parameters=1, budget=Steps(n=100)
)


@pytest.mark.parametrize(
    ("tau", "expected", "variance"),
    [(5, [0.45430, 0.25818, 0.19419, 0.09333], 29.83), (3.33, [0.55554, 0.2378, 0.15506, 0.0516], 10.98), (1, None, 1)],
)
def test_temperature_sampling_and_its_variance(tau, expected, variance):
    weights = shares(Temperature(tau=tau), SIZES, NAMES, 0)
    if expected:
        np.testing.assert_allclose(weights, expected, atol=1e-5)
    proportional = np.array(SIZES) / sum(SIZES)
    np.testing.assert_allclose((weights**2 / proportional).sum(), variance, atol=5e-3)


def test_scalarization_weights():
    mixture = DataMixture(phases=(MixturePhase(weights=Temperature(tau=5)),), by="loss")
    starts, table = loss_weights(mixture, SIZES, NAMES, TIMELINE)
    assert starts == [0]
    np.testing.assert_allclose(table[0], [0.4879, 4.677, 14.61, 273.9], rtol=5e-4)
    (phase,) = resolve_phases(mixture, SIZES, NAMES, TIMELINE)
    np.testing.assert_allclose(phase.weights, np.array(SIZES) / sum(SIZES))  # read as the corpus is


def gradients_of_batches(by, rows=16, batches=8000):
    """Gradients of a quadratic loss at 0: an example pulls to its domain's center, 1 or -0.5, plus noise."""
    sizes, names = [18_000, 2_000], ["large", "small"]
    mixture = DataMixture(phases=(MixturePhase(weights=Temperature(tau=5)),), by=by)
    domain = (
        MixedOrder(sizes, resolve_phases(mixture, sizes, names, TIMELINE), seed=3)
        .locate(np.arange(rows * batches))
        .domain
    )
    weights = np.ones(len(domain))
    if by == "loss":
        weigh = domain_factors(*loss_weights(mixture, sizes, names, TIMELINE))
        weights = np.asarray(weigh(SimpleNamespace(domain=domain), TIMELINE.clock(0)))[:, 0]
    pulls = np.array([1.0, -0.5])[domain] + np.random.default_rng(0).normal(0, 3, len(domain))
    return (weights * -pulls).reshape(batches, rows).mean(axis=1)


def test_scalarization_has_the_gradient_of_sampling_and_its_variance_times_what_theory_says():
    """Theorem 2 of arXiv 2410.04579: the variances are as sum p^2 / p(tau = 1) is to 1."""
    share, proportional = shares(Temperature(tau=5), [18_000, 2_000], ["large", "small"], 0), np.array([0.9, 0.1])
    sampled, scalarized = gradients_of_batches("sampling"), gradients_of_batches("loss")
    expected = -share @ np.array([1.0, -0.5])
    for gradients in sampled, scalarized:
        assert abs(gradients.mean() - expected) < 3 * gradients.std() / len(gradients) ** 0.5
    ratio = (share**2 / proportional).sum()
    assert ratio == pytest.approx(1.95, abs=0.01)
    assert scalarized.var() / sampled.var() == pytest.approx(ratio, rel=0.1)


def test_unimax_caps_small_domains_and_is_uniform_otherwise():
    np.testing.assert_allclose(unimax(np.array([10.0, 1000, 4, 2000]), 214), [10, 100, 4, 100])
    np.testing.assert_allclose(unimax(np.array([10.0, 20]), 300), [10, 20])  # all caps together are below the budget
    weights = shares(UniMax(epochs=2), [5, 500, 2, 1000], NAMES, 214)
    np.testing.assert_allclose(weights, np.array([10, 100, 4, 100]) / 214)


@given(n=st.integers(0, 50), m=st.integers(1, 60), a=st.integers(0, 200), b=st.integers(-200, 200))
def test_a_sum_of_floors(n, m, a, b):
    assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


WEIGHTS = st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda w: sum(w) > 0.1)


@settings(max_examples=40)
@given(weights=WEIGHTS, end=st.integers(0, 3000))
def test_counts_in_closed_form_are_those_of_the_sequence_and_near_the_shares_everywhere(weights, end):
    share = np.array(weights) / sum(weights)
    phase = ResolvedPhase(0, tuple(share))
    domains = phase.domains(0, 3000)
    counted = np.bincount(domains[:end], minlength=len(weights))
    assert phase.counts(end).tolist() == counted.tolist()
    assert np.abs(counted - end * share).max() < 6
    assert not counted[share == 0].any()


def located(order, begin, end):
    return np.stack(order.locate(np.arange(begin, end)), axis=1)


MIXTURE = DataMixture(
    phases=(
        MixturePhase(weights=Temperature(tau=5)),
        MixturePhase(start=Fraction(n=0.5), weights=GivenWeights(weights={"en": 1, "sw": 1})),
    )
)
WINDOWS = [300, 70, 20, 3]


def order_of(mixture, skips=(), consumed=(), first=0):
    return MixedOrder(WINDOWS, resolve_phases(mixture, WINDOWS, NAMES, TIMELINE, skips, first), 7, consumed)


def test_any_rows_of_any_batch_have_the_same_locations():
    """On any host, in any order, after any restart."""
    order = order_of(MIXTURE)
    whole = located(order, 0, 600)
    np.testing.assert_array_equal(np.concatenate([located(order, a, a + 37) for a in range(0, 592, 37)]), whole[:592])
    some = np.random.default_rng(0).permutation(600)[:50]
    np.testing.assert_array_equal(np.stack(order.locate(some), axis=1), whole[some])


def test_within_an_epoch_of_a_domain_nothing_is_read_twice_and_each_epoch_is_in_another_order():
    read = located(order_of(MIXTURE), 0, 600)
    for domain, windows in enumerate(WINDOWS):
        of_domain = read[read[:, 1] == domain]
        epochs = of_domain[:, 0]
        assert (np.diff(epochs) >= 0).all()
        for epoch in range(epochs.max(initial=0)):  # the last one need not be whole
            assert sorted(of_domain[epochs == epoch][:, 2]) == list(range(windows))
    first, second = (read[(read[:, 1] == 2) & (read[:, 0] == epoch)][:, 2].tolist() for epoch in (0, 1))
    assert first != second


def test_phases_follow_the_clock_also_after_a_skip():
    """Half of the budget is step 50, which begins with sequence 200, or 230 if 30 were skipped before."""
    for skips, boundary in ((), 200), (((10, 30),), 230), (((60, 30),), 200):
        read = located(order_of(MIXTURE, skips), 0, 600)
        assert set(read[boundary:, 1]) == {0, 3}
        assert set(read[:boundary, 1]) == {0, 1, 2, 3}
        np.testing.assert_array_equal(read[:200], located(order_of(MIXTURE), 0, 200))


def test_a_stage_continues_after_another_mixture():
    before = order_of(cooldown())
    after = order_of(MIXTURE, consumed=tuple(before.counts(600)))
    pairs = np.concatenate([located(before, 0, 600), located(after, 0, 600)])
    assert len(np.unique(pairs, axis=0)) == len(pairs)  # no sequence twice in one epoch


def test_upsampling_and_cooldown_resolve_to_their_phases():
    up = upsampling({"sw": 10}, last=0.2)
    (early, late) = resolve_phases(up, WINDOWS, NAMES, TIMELINE)
    assert late.first == TIMELINE.sequences_before(80)
    np.testing.assert_allclose(early.weights, np.array(WINDOWS) / sum(WINDOWS))
    np.testing.assert_allclose(late.weights, np.array([300, 70, 20, 30]) / 420)
    assert [phase.weights for phase in cooldown().phases] == [Temperature(tau=5), Temperature(tau=1)]


def test_a_temperature_near_zero_reads_the_largest_alone():
    weights = shares(Temperature(tau=1e-3), [10_000_000, 9_000_000, 3, 0], NAMES, 0)
    np.testing.assert_allclose(weights, [1, 0, 0, 0], atol=1e-12)


def test_phases_that_a_short_stage_does_not_reach_do_no_harm():
    late = MixturePhase(start=Steps(n=70), weights=UniMax(epochs=1))
    later = MixturePhase(start=Steps(n=700), weights=UniMax(epochs=1))
    short = Timeline(Ramp(steps=((0, 4),)), seq_len=1, flops_per_token=1, active_parameters=1, budget=Steps(n=60))
    first, *rest = resolve_phases(DataMixture(phases=(MixturePhase(), late, later)), WINDOWS, NAMES, short)
    assert first.first == 0
    assert [phase.first for phase in rest] == [240, 240]


def test_unknown_and_empty_domains_are_refused():
    with pytest.raises(UserError, match="names fr, but the corpus has: en, it, zh, sw"):
        shares(GivenWeights(weights={"fr": 1}), SIZES, NAMES, 0)
    with pytest.raises(UserError, match="reads sw, which have not one sequence"):
        shares(GivenWeights(weights={"sw": 1}), [5, 1, 1, 0], NAMES, 0)
    with pytest.raises(ValueError, match="must start at 0"):
        DataMixture(phases=(MixturePhase(start=Fraction(n=0.5)),))
    with pytest.raises(ValueError, match=r"either data\.mixture or data\.rs2_fraction"):
        Data(corpus="none", seq_len=8, mixture=DataMixture(), rs2_fraction=0.5)


def test_rs2_without_replacement_is_ordinary_training_for_fewer_epochs():
    """Rounds of a quarter that walk through a permutation: 8 of them have the indices of 2 epochs, bit for bit."""
    order, rounds = Order([30, 10], 3), np.arange(8)
    walked = np.concatenate([located(order, 10 * r, 10 * (r + 1)) for r in rounds])
    np.testing.assert_array_equal(walked, located(order, 0, 2 * 40))


def test_rs2_with_replacement_draws_every_round_from_all_windows():
    order = Order([30, 10], 3, of_round=0.25)
    read = located(order, 0, 200)
    assert read[:, 0].tolist() == np.repeat(np.arange(20), 10).tolist()
    drawn = [{tuple(window) for window in read[read[:, 0] == r][:, 1:].tolist()} for r in range(20)]
    assert all(len(windows) == 10 for windows in drawn)  # within a round no window is drawn twice
    assert len({frozenset(windows) for windows in drawn}) == 20
    assert len(set().union(*drawn)) == 40  # in the end every window has been drawn
