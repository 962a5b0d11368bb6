"""Votes and the best of k: known answers, and enumeration of all subsets."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.judging.selection import NO_ANSWER, answer_codes, best_of_k, best_of_k_weights, vote


def test_best_of_k_of_known_flags() -> None:
    flags = np.array([True, False, False, True, False])
    np.testing.assert_allclose(best_of_k(flags, np.arange(5.0), [1, 2, 3, 5]), [0.4, 0.3, 0.3, 0.0], atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=7), st.data())
def test_best_of_k_is_the_mean_over_all_subsets(samples: list[tuple[bool, int]], data: st.DataObject) -> None:
    """Equal scores are chosen among at random."""
    k = data.draw(st.integers(1, len(samples)))
    picks = []
    for subset in combinations(samples, k):
        best = max(score for _, score in subset)
        picks.append(np.mean([flag for flag, score in subset if score == best]))
    flags, scores = (np.array(x) for x in zip(*samples, strict=True))
    assert best_of_k(flags, scores.astype(float), [k])[0] == pytest.approx(np.mean(picks), abs=1e-9)


def test_probabilities_of_the_best_add_up_for_many_samples() -> None:
    np.testing.assert_allclose(best_of_k_weights(4096, [1, 2, 64, 4095, 4096]).sum(axis=1), 1, rtol=1e-9)


def test_a_missing_score_is_chosen_last() -> None:
    flags = np.array([True, False])
    assert best_of_k(flags, np.array([np.nan, -100.0]), [2])[0] == 0


def test_majority_converges_to_the_commonest_answer_not_to_coverage() -> None:
    codes = answer_codes(["7"] * 30 + ["5"] * 20 + [None] * 14)
    wrong = vote(codes, codes == 1, [1, 8, 64], key=3)
    right = vote(codes, codes == 0, [1, 8, 64], key=3)
    assert right[-1] == 1
    assert wrong[-1] == 0
    assert right[0] == pytest.approx(30 / 64)


def test_majority_agrees_with_all_subsets() -> None:
    answers = ["a", "a", "b", "b", "b", "c", None]
    codes = answer_codes(answers)
    correct = codes == codes[0]
    exact = []
    for subset in combinations(range(7), 4):
        tally = np.bincount([codes[i] for i in subset if codes[i] != NO_ANSWER], minlength=3)
        exact.append((tally[0] == tally.max()) / (tally == tally.max()).sum())
    assert vote(codes, correct, [4], key=0, subsets=20_000)[0] == pytest.approx(np.mean(exact), abs=0.012)


def test_tied_answers_count_their_share() -> None:
    codes = np.array([0, 1, 2])
    assert vote(codes, codes == 1, [3], key=0)[0] == pytest.approx(1 / 3)
    assert vote(np.array([NO_ANSWER, NO_ANSWER]), np.array([False, False]), [1, 2], key=0).tolist() == [0, 0]


def test_weights_decide_a_vote() -> None:
    codes, correct = np.array([0, 0, 1]), np.array([False, False, True])
    assert vote(codes, correct, [3], key=0)[0] == 0
    assert vote(codes, correct, [3], key=0, weights=np.array([0.2, 0.2, 0.5]))[0] == 1


def test_subsets_depend_on_the_problem_alone() -> None:
    codes = answer_codes(np.random.default_rng(0).integers(0, 4, 50).tolist())
    one = vote(codes, codes == 0, [5, 20], key=11)
    assert one.tolist() == vote(codes, codes == 0, [20, 5], key=11)[::-1].tolist()
    assert one.tolist() != vote(codes, codes == 0, [5, 20], key=12).tolist()
