"""Known answers of AlgoPerf and Languini."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.comparison.benchmarks import (
    class_steps,
    class_tokens,
    normalized_perplexity,
    performance_profile,
    scores,
    workload_time,
)

TIMES = {
    "a": {"x": 1.0, "y": 2.0, "z": 4.0},
    "b": {"x": 2.0, "y": 1.0, "z": math.inf},
    "c": {"x": 4.1, "y": 3.0, "z": 1.0},
}


def test_algoperf_scores_of_three_submissions_on_three_workloads() -> None:
    """The time 4.1 of c on x is beyond r_max = 4 and adds nothing."""
    assert scores(TIMES) == pytest.approx({"a": 0.5556, "b": 0.5556, "c": 0.4444}, abs=1e-4)


@settings(max_examples=20)
@given(st.lists(st.lists(st.floats(1, 20) | st.just(math.inf), min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_score_is_the_area_under_the_profile(rows: list[list[float]]) -> None:
    times = {str(i): dict(zip("xyz", row, strict=True)) for i, row in enumerate(rows)}
    edges = np.linspace(1, 4, 601)
    middles = (edges[:-1] + edges[1:]) / 2
    for submission, score in scores(times).items():
        assert score == pytest.approx(
            np.mean([performance_profile(times, submission, tau) for tau in middles]), abs=1e-2
        )


def test_a_submissions_time_is_the_median_of_the_best_trials() -> None:
    assert workload_time([[5, 9, math.inf], [3, 8, 8], [math.inf, math.inf, 7]]) == 5
    assert workload_time([[math.inf], [3], [math.inf]]) == math.inf


@pytest.mark.parametrize(
    ("hours", "speed", "sequences", "steps"),
    [(6, 55416, 128, 18264.55), (48, 16618, 256, 21908.5), (96, 16618, 256, 43817)],
)
def test_languini_classes(hours: float, speed: float, sequences: int, steps: float) -> None:
    per_step = sequences * 512
    assert class_tokens(hours, speed) / per_step == pytest.approx(steps, abs=0.5)
    assert class_steps(hours, speed, per_step) == int(class_tokens(hours, speed) / per_step)


def test_perplexity_per_byte_is_two_to_the_bits() -> None:
    assert normalized_perplexity(800 * math.log(2), 400) == pytest.approx(4)
