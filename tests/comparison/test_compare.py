"""Comparisons of curves that are known in closed form."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.comparison.bootstrap import (
    bootstrap_interval,
    holm,
    resample_indices,
    student_t_interval,
    unpaired_t_interval,
)
from pathways_lite.comparison.compare import Arm, area_between, compare, speedup_at_loss
from pathways_lite.comparison.curves import Curve, first_crossing
from pathways_lite.comparison.metric import Metric
from pathways_lite.comparison.table import Results
from pathways_lite.tracking.formatting import duration

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
    for c in (paired, unpaired):  # three pairs have no bootstrap
        assert (c.t_interval.low, c.t_interval.high) == pytest.approx((c.difference.low, c.difference.high))


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
    assert results.time_rows() == [["arm", "not reached", "not reached", "0.000", "0.000"]]


def test_a_mean_curve_may_reach_what_single_runs_do_not() -> None:
    """The table says how many do, and no sentence says that all have."""
    offsets = {"baseline": (0.0, 0.2), "arm": (-0.5, -0.3)}
    arms = [
        Arm(name, tuple(curve(seed, logarithmic(offset=of_run)) for seed, of_run in enumerate(of_runs)))
        for name, of_runs in offsets.items()
    ]
    results = Results.compare_arms(arms, "baseline", Metric())
    (c,) = results.comparisons
    assert c.progress[1] == pytest.approx(1.0), "the mean curve is there"
    assert results.time_rows()[0][2] == "reached by 1 of 2 runs"
    (note,) = (note for note in results.notes() if "unfinished" in note)
    assert "On the mean curves baseline is at the target after 100% of its FLOPs" in note
    worse = Results.compare_arms([replace(arms[0], name="worse"), arms[1]], "arm", Metric(), target=c.target - 0.2)
    assert "only the baseline" in " ".join(worse.rows()[1])


def test_flops_and_time_are_compared_at_one_target() -> None:
    """That of the pair; a third arm, far worse, does not move it."""
    offsets = {"baseline": 0.0, "arm": -0.1, "worse": 2.0}
    arms = [Arm(name, (curve(0, logarithmic(offset=offset)),)) for name, offset in offsets.items()]
    results = Results.compare_arms(arms, "baseline", Metric())
    (arm, worse), rows = results.comparisons, results.rows()
    baseline_end, worse_end = (float(arms[i].curves[0].loss[-1]) for i in (0, 2))
    assert (arm.target, worse.target) == pytest.approx((baseline_end, worse_end))
    assert [row[4] for row in rows] == ["", f"{baseline_end:.4f}", f"{worse_end:.4f}"]
    seconds = arms[0].curves[0].seconds
    assert results.time_header[2] == "time of baseline"
    assert len(set(results.time_header)) == len(results.time_header)
    assert results.time_rows()[0][2] == duration(float(seconds[-1]))
    assert float(results.time_rows()[0][3]) == 1.0 > float(results.time_rows()[0][4])
    assert "".join(results.notes()).count("Target: the loss at which FLOPs and training time are compared") == 1


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
@given(st.lists(st.floats(-10, 10), min_size=6, max_size=9))
def test_the_bootstrap_of_a_mean_has_two_tails_at_least(values: list[float]) -> None:
    """The inverse distribution function: at most a fortieth of the resamples are below the lower limit, and above."""
    data, n = np.array(values), len(values)
    interval = bootstrap_interval(lambda a, _: float(data[a].mean()), n, n, paired=True)
    means = data[resample_indices(n)].mean(axis=1)
    assert interval.value == pytest.approx(data.mean())
    assert np.mean(means < interval.low) <= 0.025 <= np.mean(means <= interval.low)
    assert np.mean(means > interval.high) <= 0.025 + 1 / len(means)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_there_is_no_bootstrap_below_six_pairs(n: int) -> None:
    interval = bootstrap_interval(lambda a, _: float(a.mean()), n, n, paired=True)
    assert not interval.has_limits


def test_students_t_over_pairs_covers_what_it_says() -> None:
    """2000 times three normal differences: the old bracket held the truth in 63 % of them."""
    draws = np.random.default_rng(0).normal(0.3, 1, (2000, 3))
    held = [student_t_interval(d).contains(0.3) for d in draws]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_unpaired_means_are_compared_by_welch() -> None:
    from scipy import stats

    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 4), rng.normal(1, 3, 7)
    interval, p_value = unpaired_t_interval(lambda i, j: float(a[i].mean() - b[j].mean()), 4, 7)
    known = stats.ttest_ind(a, b, equal_var=False)
    assert p_value == pytest.approx(known.pvalue)
    assert (interval.low, interval.high) == pytest.approx(tuple(known.confidence_interval(0.95)))


def test_the_interval_of_a_speedup_is_students_over_logarithms() -> None:
    """Pairs that are worth 1.1, 1.2 and 1.4 times the compute."""
    factors = (1.1, 1.2, 1.4)
    arm = Arm("arm", tuple(curve(s, logarithmic(f)) for s, f in enumerate(factors)))
    baseline = Arm("baseline", tuple(curve(s, logarithmic()) for s in range(3)))
    speedup = compare(arm, baseline).speedup
    logs = np.log(factors)
    half = 4.3027 * logs.std(ddof=1) / math.sqrt(3)
    limits = math.exp(logs.mean() - half) - 1, math.exp(logs.mean() + half) - 1
    assert (speedup.low, speedup.high) == pytest.approx(limits, rel=1e-3)
    assert speedup.value == pytest.approx(math.exp(logs.mean()) - 1, rel=1e-6)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=12))
def test_holms_correction(p_values: list[float | None]) -> None:
    """Between the p-value and Bonferroni, in the same order; the smallest is Bonferroni's."""
    corrected, known = holm(p_values), [p for p in p_values if p is not None]
    for p, q in zip(p_values, corrected, strict=True):
        assert (p is None) == (q is None)
        assert p is None or q is None or p <= q <= min(1, len(known) * p) + 1e-12 or q == pytest.approx(p)
    pairs = sorted((p, q) for p, q in zip(p_values, corrected, strict=True) if p is not None and q is not None)
    assert [q for _, q in pairs] == sorted(q for _, q in pairs)
    if pairs:
        assert pairs[0][1] == pytest.approx(min(1, len(known) * pairs[0][0]))


def test_many_arms_are_corrected_and_the_unfinished_baseline_is_named() -> None:
    rng = np.random.default_rng(0)
    arms = [Arm("baseline", tuple(curve(s, logarithmic(offset=rng.normal(0, 0.003))) for s in range(3)))]
    arms += [
        Arm(f"arm{i}", tuple(curve(s, logarithmic(offset=rng.normal(-0.03, 0.01))) for s in range(3)))
        for i in range(10)
    ]
    results = Results.compare_arms(arms, "baseline", Metric())
    for c in results.comparisons:
        assert c.p_value is not None
        assert c.p_holm is not None
        assert c.p_holm > c.p_value
        assert c.comparisons == 10
    notes = " ".join(results.notes())
    assert "Holm's correction" in notes
    assert "a finished baseline is compared with an unfinished arm0" in notes
    equal = Results.compare_arms([arms[0], Arm("same", arms[0].curves)], "baseline", Metric())
    assert "unfinished" not in " ".join(equal.notes())


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


def test_one_evaluation_per_run_has_no_speedup() -> None:
    """Both curves are a point, so when they were at the target is not known; the difference is."""
    end = GRID[-1:]
    arms = [
        Arm(name, tuple(curve(s, np.array([4 + offset + s / 100]), end) for s in range(3)))
        for name, offset in (("baseline", 0.0), ("arm", -0.1))
    ]
    results = Results.compare_arms(arms, "baseline", Metric())
    (comparison,) = results.comparisons
    assert math.isnan(comparison.speedup.value)
    assert not comparison.speedup.has_limits
    assert comparison.difference.value == pytest.approx(-0.1)
    assert results.rows()[1][5].replace("\n", " ") == "one evaluation per run; set evaluation.every"
    assert results.time_rows() == [], "a table of nothing but unknown is left out"


def test_a_speedup_is_of_the_arms_own_points() -> None:
    """A branch has points from late on only; the baseline crossed the target long before the first of them."""
    flops = np.geomspace(1e12, 1e15, 4)
    baseline = Arm("baseline", (curve(0, np.array([5.0, 3.0, 2.9, 2.8]), flops),))
    branch = Arm("branch", (curve(0, np.array([4.5, 4.0]), flops[2:]),))
    comparison = compare(branch, baseline)
    assert comparison.target == 4.0
    assert comparison.speedup.value == pytest.approx(10**12.5 / 10**15 - 1)  # half of the way from 5 to 3, in log FLOPs


def test_an_arm_that_is_below_the_target_at_its_first_point_has_no_speedup() -> None:
    flops = np.geomspace(1e12, 1e15, 4)
    baseline = Arm("baseline", (curve(0, np.array([5.0, 4.5, 4.2, 4.0]), flops),))
    branch = Arm("branch", (curve(0, np.array([3.9, 3.8]), flops[2:]),))
    comparison = compare(branch, baseline)
    assert math.isnan(comparison.speedup.value)
    assert comparison.no_speedup == "branch is there at its first evaluation; set a smaller evaluation.every"


def test_times_that_do_not_tell_arms_apart_are_said_to() -> None:
    """Equal curves on a machine that was busy for one of them have other times, and so other scores."""
    same = curve(0, logarithmic())
    slower = replace(same, seconds=1.3 * same.seconds)
    results = Results.compare_arms([Arm("arm", (slower,)), Arm("baseline", (same,))], "baseline", Metric())
    assert results.time_rows()[0][3:] == ["0.900", "1.000"]
    (note,) = results.time_notes()
    assert note.startswith("arm and baseline reach the target after the same FLOPs: their times (")
    several = Arm("arm", (slower, replace(same, seconds=0.9 * same.seconds)))
    (note,) = Results.compare_arms(
        [several, Arm("baseline", (same, same))], "baseline", Metric(), target=float(same.loss[-1])
    ).time_notes()
    assert note.startswith("Runs of arm and of baseline take overlapping times (")
    better = Arm("arm", (curve(0, logarithmic(offset=-0.3)),))
    assert not Results.compare_arms([better, Arm("baseline", (same,))], "baseline", Metric()).time_notes()
