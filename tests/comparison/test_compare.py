"""Comparisons of curves that are known in closed form."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.comparison.bootstrap import bootstrap_interval, resample_indices, student_t_interval
from pathways_lite.comparison.compare import Arm, area_between, compare, speedup_at_loss
from pathways_lite.comparison.curves import Curve, first_crossing
from pathways_lite.comparison.metric import Metric
from pathways_lite.comparison.table import Results

GRID = np.geomspace(1e12, 1e15, 40)


def curve(seed: int, loss: np.ndarray, flops: np.ndarray = GRID) -> Curve:
    return Curve(f"run{seed}", seed, flops, flops / 1e6, flops / 1e9, loss)


def logarithmic(factor: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """Loss that falls by 0.1 per factor e of compute, as if `factor` times the compute had been spent."""
    return 10 - 0.1 * np.log(GRID * factor) + offset


@pytest.mark.parametrize("factor", [1.546, 1.0, 0.5])
def test_an_arm_worth_f_times_the_compute_has_that_speedup(factor: float) -> None:
    """300 / 194 - 1 = 54.6 % is what G_stack reports."""
    arm = Arm("arm", (curve(0, logarithmic(factor)),))
    baseline = Arm("baseline", (curve(0, logarithmic()),))
    comparison = compare(arm, baseline)
    assert comparison.speedup.value == pytest.approx(factor - 1)
    assert comparison.difference.value == pytest.approx(-0.1 * math.log(factor))
    assert comparison.area.value == pytest.approx(-0.1 * math.log(factor))
    assert math.isnan(comparison.speedup.low), "one run has no interval"


def test_pairs_cancel_what_a_seed_does_to_both() -> None:
    """Seeds change the loss by 0.3, the arm by 0.02, which only pairs show. The order of runs does not matter."""
    noise = {0: 0.3, 1: -0.3, 2: 0.1}
    arm = Arm("arm", tuple(curve(s, logarithmic(offset=n - 0.02 - s / 1000)) for s, n in noise.items()))
    pairs = Arm("baseline", tuple(curve(s, logarithmic(offset=noise[s])) for s in (2, 0, 1)))
    apart = Arm("baseline", tuple(curve(s + 5, logarithmic(offset=n)) for s, n in noise.items()))
    paired, unpaired = compare(arm, pairs), compare(arm, apart)
    assert paired.paired
    assert not unpaired.paired
    assert paired.difference.high < 0 < unpaired.difference.high
    assert paired.difference.value == pytest.approx(-0.021)
    assert paired.t_interval is not None
    assert paired.t_interval.low < paired.difference.low < paired.difference.high < paired.t_interval.high < 0
    assert unpaired.t_interval is None


def test_compute_that_a_run_did_not_reach_is_not_compared() -> None:
    half = GRID <= 1e14
    arm = Arm("arm", (curve(0, logarithmic()[half], GRID[half]),))
    comparison = compare(arm, Arm("baseline", (curve(0, logarithmic()),)))
    assert comparison.flops == GRID[half][-1]
    assert comparison.difference.value == pytest.approx(0)
    assert comparison.max_flops_ratio == pytest.approx(1e15 / GRID[half][-1])


def test_a_target_that_is_never_reached_is_reported() -> None:
    assert speedup_at_loss(GRID, logarithmic(), logarithmic(), 1.0) != speedup_at_loss(
        GRID, logarithmic(), logarithmic(), 8.0
    )
    assert math.isnan(speedup_at_loss(GRID, logarithmic(), logarithmic(), 1.0))
    assert speedup_at_loss(GRID, logarithmic(1e9), logarithmic(), 5.0) == math.inf
    assert speedup_at_loss(GRID, logarithmic(), logarithmic(1e9), 5.0) == -1
    arm, baseline = (Arm(name, (curve(0, logarithmic()),)) for name in ("arm", "baseline"))
    results = Results.compare_arms([arm, baseline], "baseline", Metric(), target=1.0)
    assert "not reached" in results.rows()[1]
    assert results.time_rows()[0][1] == "not reached"


@given(st.lists(st.floats(0, 10), min_size=2, max_size=20), st.floats(0, 10))
def test_the_first_crossing_is_on_the_polyline(values: list[float], target: float) -> None:
    loss, flops = np.array(values), np.geomspace(1, 100, len(values))
    crossing = first_crossing(flops, loss, target)
    if not np.isfinite(crossing):
        assert loss.min() > target
        return
    assert np.interp(np.log(crossing), np.log(flops), loss) <= target + 1e-6
    assert np.all(loss[flops < crossing * (1 - 1e-9)] > target)


@given(st.integers(2, 30), st.floats(-5, 5))
def test_the_area_between_two_curves_of_constant_distance_is_the_distance(n: int, distance: float) -> None:
    flops = np.geomspace(1, 1e3, n)
    loss = np.sin(np.arange(n))
    assert area_between(flops, loss + distance, loss) == pytest.approx(distance)


@settings(max_examples=20)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=4))
def test_the_bootstrap_of_a_mean_by_all_resamples(values: list[float]) -> None:
    """Compare with the exact distribution of sums of independent draws."""
    data, n = np.array(values), len(values)
    interval = bootstrap_interval(lambda a, _: float(data[a].mean()), n, n, paired=True)
    sums = np.zeros(1)
    for _ in range(n):
        sums = (sums[:, None] + data).ravel()
    low, high = np.quantile(sums / n, [0.025, 0.975], method="nearest")
    assert (interval.value, interval.low, interval.high) == pytest.approx((data.mean(), low, high))
    assert data.min() - 1e-9 <= interval.low <= interval.high <= data.max() + 1e-9
    assert len(resample_indices(n)) == n**n


def test_students_interval() -> None:
    """The quantile of t at 97.5 % with 2 degrees of freedom is 4.303."""
    interval = student_t_interval(np.array([1.0, 2.0, 3.0]))
    assert (interval.low, interval.high) == pytest.approx(
        (2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-3
    )


def test_the_bootstrap_over_unequal_numbers_of_runs() -> None:
    """Two arms of different seeds: as wide as the normal approximation, within a fifth."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 40), rng.normal(0, 2, 60)
    interval = bootstrap_interval(lambda i, j: float(a[i].mean() - b[j].mean()), 40, 60, paired=False)
    half = 1.96 * math.hypot(a.std() / math.sqrt(40), b.std() / math.sqrt(60))
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.2)
