"""Standard errors over documents: tokens of one document are one observation."""

import math

import numpy as np
import pytest

from pathways_lite.evaluation.paired import PairedLosses, clustered_mean, join_pairs, summarize_pairs


def test_single_tokens_have_the_usual_error() -> None:
    values = np.random.default_rng(0).normal(size=50)
    mean, error = clustered_mean(values, np.arange(50))
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_equal_tokens_of_a_document_count_once() -> None:
    values = np.random.default_rng(1).normal(size=20)
    single = clustered_mean(values, np.arange(20))
    assert clustered_mean(np.repeat(values, 7), np.repeat(np.arange(20), 7)) == pytest.approx(single)


def test_intervals_cover_the_mean() -> None:
    """Documents of unequal length with an effect of their own: two errors hold the truth in 95 %."""
    rng = np.random.default_rng(2)
    covered = naive = 0
    for _ in range(400):
        lengths = rng.integers(1, 30, 60)
        document = np.repeat(np.arange(60), lengths)
        values = rng.normal(size=60)[document] + rng.normal(size=len(document))
        mean, error = clustered_mean(values, document)
        covered += abs(mean) < 2 * error
        naive += abs(mean) < 2 * clustered_mean(values, np.arange(len(values)))[1]
    assert 0.91 < covered / 400 < 0.98
    assert naive / 400 < 0.75


def test_one_document_has_no_error() -> None:
    pairs = PairedLosses(np.array([1.0, 3.0]), np.array([2.0, 2.5]), np.array([4, 4]))
    summary = summarize_pairs(pairs)
    assert summary == {"loss": 2, "loss_left_to_right": 2.25, "difference": -0.25, "tokens": 2, "documents": 1}
    both = summarize_pairs(join_pairs([pairs, pairs._replace(document=np.array([5, 5]))]))
    assert both["documents"] == 2
    assert both["standard_error"] == 0
