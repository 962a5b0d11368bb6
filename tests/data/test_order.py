"""The order of examples: a permutation per epoch, in closed form, the same forever."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.data.order import Order, first_example, locate_rows, permute, round_keys
from pathways_lite.ledger import Timeline
from pathways_lite.recipe import Ramp, Steps


def timeline(*ramp: tuple[int, int]) -> Timeline:
    return Timeline(Ramp(steps=ramp), seq_len=4, flops_per_token=1, active_parameters=1, budget=Steps(n=100))


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 10))
@settings(max_examples=60)
def test_permutation_is_a_bijection(n: int, seed: int, epoch: int) -> None:
    image = permute(np.arange(n), n, round_keys(seed, epoch))
    assert sorted(image.tolist()) == list(range(n))


def test_permutation_of_huge_sets_stays_inside_and_does_not_collide() -> None:
    n = 10**12 + 7
    image = permute(np.arange(n - 20_000, n), n, round_keys(3))
    assert image.min() >= 0
    assert image.max() < n
    assert len(np.unique(image)) == 20_000


def test_golden_values() -> None:
    """A change here is a change of every run's data order."""
    assert permute(np.arange(8), 1000, round_keys(0, 0)).tolist() == [711, 522, 636, 241, 144, 263, 239, 824]
    assert permute(np.arange(4), 10**9, round_keys(1234, 5)).tolist() == [604428608, 777713623, 842667933, 856746534]


def test_epochs_and_seeds_are_different_orders() -> None:
    n = 1000
    orders = [permute(np.arange(n), n, round_keys(seed, epoch)) for seed in range(3) for epoch in range(3)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            # Two random permutations agree in 1 place on average.
            assert (a == b).sum() < 10


def test_order_looks_random() -> None:
    """Neighbours are as far apart, and every position as evenly filled, as in a random permutation."""
    n = 1 << 15
    for seed in range(5):
        image = permute(np.arange(n), n, round_keys(seed)) / n
        assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.03
        assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 0.03
        assert np.abs(np.diff(image)).mean() == pytest.approx(1 / 3, abs=0.01)
        # First half of the order over 64 sections of the data: chi-square with 63 degrees of freedom.
        counts = np.histogram(image[: n // 2], bins=64, range=(0, 1))[0]
        expected = n // 2 / 64
        assert ((counts - expected) ** 2 / expected).sum() < 110


def test_small_sets_reach_every_order() -> None:
    """All 6 orders of 3 windows occur about equally often over the keys."""
    orders = [tuple(permute(np.arange(3), 3, round_keys(seed)).tolist()) for seed in range(600)]
    assert min(orders.count(order) for order in set(orders)) > 60
    assert len(set(orders)) == 6


@given(
    windows=st.lists(st.integers(0, 50), min_size=1, max_size=5).filter(any),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_every_epoch_visits_every_window_once(windows: list[int], seed: int) -> None:
    n = sum(windows)
    located = Order(windows, seed).locate(np.arange(3 * n))
    assert located.epoch.tolist() == [e for e in range(3) for _ in range(n)]
    everything = sorted((d, w) for d, count in enumerate(windows) for w in range(count))
    for e in range(3):
        epoch = slice(e * n, (e + 1) * n)
        visited = zip(located.domain[epoch].tolist(), located.window[epoch].tolist(), strict=True)
        assert sorted(visited) == everything


@given(seed=st.integers(0, 5), picks=st.lists(st.integers(0, 500), min_size=1, max_size=20))
@settings(max_examples=30)
def test_location_depends_on_the_example_alone(seed: int, picks: list[int]) -> None:
    order = Order([7, 0, 30], seed)
    whole = order.locate(np.arange(501))
    picked = order.locate(np.array(picks))
    for column, picked_column in zip(whole, picked, strict=True):
        assert column[picks].tolist() == picked_column.tolist()


@given(
    ramp=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=4),
    skips=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40)), max_size=4),
    first=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_offsets_are_those_of_counting_step_by_step(
    ramp: list[tuple[int, int]], skips: list[tuple[int, int]], first: int
) -> None:
    starts = np.cumsum([0] + [length for length, _ in ramp[:-1]]).tolist()
    ramped = timeline(*[(start, n) for start, (_, n) in zip(starts, ramp, strict=True)])
    position = first
    for step in range(40):
        position += sum(n for at_step, n in skips if at_step == step)
        numbers = locate_rows(ramped, step, None, skips, first).example
        assert numbers.tolist() == list(range(position, position + ramped.sequences_at(step)))
        position += len(numbers)


def test_skipped_sequences_are_never_read_and_the_rest_once() -> None:
    constant = timeline((0, 4))
    read = np.concatenate([locate_rows(constant, step, None, ((3, 10),)).example for step in range(6)]).tolist()
    assert read == [*range(12), *range(22, 34)]


def test_rows_of_hosts_make_up_the_batch() -> None:
    constant = timeline((0, 6))
    whole = locate_rows(constant, 2).example
    shards = [locate_rows(constant, 2, slice(i, i + 2)).example for i in (0, 2, 4)]
    assert np.concatenate(shards).tolist() == whole.tolist()


def test_palm_540b_ramp() -> None:
    """Methods: 512 sequences until step 50 k, 1024 until 115 k, 2048 until 255 k: 775.9 B tokens."""
    palm = timeline((0, 512), (50_000, 1024), (115_000, 2048))
    assert first_example(palm, 50_000) == 25_600_000
    assert first_example(palm, 115_000) == 92_160_000
    assert first_example(palm, 255_000) * 2048 == 775_946_240_000
