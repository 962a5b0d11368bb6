"""Weak verifiers: known answers, and simulation of what is returned."""

import math

import numpy as np
import pytest

from pathways_lite.errors import UserError
from pathways_lite.judging.weak_verifiers import ProblemTypes, best_attempts, resample_weakly

FIGURE = ProblemTypes(prior=(0.58, 0.42), accuracy=(0.87, 0.13), completeness=1, soundness=0.75)


@pytest.mark.parametrize(("wrong", "attempts", "value"), [(-0.7, 3, 0.524567), (-1, 2, 0.472381), (-2, 1, 0.338800)])
def test_attempts_that_pay_in_the_papers_figure(wrong: float, attempts: int, value: float) -> None:
    best, reward = FIGURE.best_attempts(1, wrong)
    assert (best, FIGURE.best_attempts_of_two(1, wrong)) == (attempts, attempts)
    assert reward == pytest.approx(value, abs=1e-6)


def test_the_expected_value_is_the_sum_over_attempts() -> None:
    """And it is what is solved, less what passes wrongly, whatever the number of attempts."""
    K = np.arange(1, 16)
    value = FIGURE.expected_value(K, 1, -0.7)
    np.testing.assert_allclose(value, FIGURE.solved(K) - 0.7 * FIGURE.false_positives(K), atol=1e-12)
    assert value[0] == pytest.approx(0.482060, abs=1e-6)
    assert value[-1] == pytest.approx(0.517645, abs=1e-6)
    one_attempt_more = FIGURE.expected_value([1, 2], 1, -0.7, attempt_cost=0.1)
    rejected = 0.58 * 0.75 * 0.13 + 0.42 * 0.75 * 0.87
    assert value[1] - value[0] - (one_attempt_more[1] - one_attempt_more[0]) == pytest.approx(0.1 * rejected)


def test_accuracy_of_what_is_accepted_falls_with_attempts() -> None:
    assert FIGURE.conditional_accuracy(1) == pytest.approx(0.835375, abs=1e-6)
    assert FIGURE.conditional_accuracy() == pytest.approx(0.716236, abs=1e-6)
    assert math.isnan(ProblemTypes((1.0,), (0.0,)).conditional_accuracy())


def test_to_abstain_pays_where_nothing_else_does() -> None:
    assert FIGURE.best_attempts(1, -20) == (0, 0.0)
    assert FIGURE.best_attempts_of_two(1, -20) == 0
    with pytest.raises(UserError, match="one gains and the other loses"):
        FIGURE.best_attempts_of_two(1, 0)


def test_resampling_known_counts() -> None:
    results = resample_weakly([10], [4], [3], [1, 2, 5, 10])
    np.testing.assert_allclose(results.solved[0], [0.3, 0.5, 0.732143, 0.75], atol=1e-6)
    np.testing.assert_allclose(results.false_positives[0], [0.1, 0.166667, 0.244048, 0.25], atol=1e-6)


def test_resampling_is_what_permutations_do() -> None:
    rng = np.random.default_rng(0)
    samples = np.array([2] * 3 + [1] * 1 + [0] * 6)  # right and accepted, accepted, rejected
    returned, attempts = np.zeros(3), 0
    for _ in range(20_000):
        drawn = rng.permutation(samples)[:4]
        first = np.flatnonzero(drawn)
        returned[drawn[first[0]] if len(first) else 0] += 1 / 20_000
        attempts += (first[0] + 1 if len(first) else 4) / 20_000
    results = resample_weakly([10], [4], [3], [4])
    assert results.solved[0, 0] == pytest.approx(returned[2], abs=0.012)
    assert results.false_positives[0, 0] == pytest.approx(returned[1], abs=0.012)
    assert results.attempts[0, 0] == pytest.approx(attempts, abs=0.04)


def test_fewer_attempts_pay_as_wrong_results_cost_more() -> None:
    """An easy problem gains at once; a hard one, whose accepted attempts are wrong, loses with every attempt."""
    results = resample_weakly([20, 20], [16, 3], [16, 0], np.arange(1, 21))
    best = best_attempts(results, [0, 0.5, 1, 4, 100])
    attempts = [b.attempts for b in best]
    assert attempts == sorted(attempts, reverse=True)
    assert attempts[-1] == 0
    assert best[0].reward == pytest.approx(0.5)
    assert best[2].reward == pytest.approx(max(results.reward(1).mean(axis=0)))


def test_a_problem_without_accepted_samples_returns_nothing() -> None:
    results = resample_weakly([5], [0], [0], [1, 5])
    assert results.solved.sum() == results.false_positives.sum() == 0
    assert results.attempts.tolist() == [[1, 5]]
