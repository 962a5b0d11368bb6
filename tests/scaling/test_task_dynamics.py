"""Statistics of tasks along training: known answers, and the page."""

import itertools

import numpy as np
import pytest
from scipy import stats

from pathways_lite.scaling.early_ranking import ALL_TASKS, early_rankings, weighted_tau
from pathways_lite.scaling.runs_table import to_columns
from pathways_lite.scaling.task_dynamics import (
    FRACTIONS,
    Curve,
    chance_tau,
    early_prediction,
    rank_correlation,
    signal_to_noise,
    similarity,
    task_dynamics,
    unseen_error,
)
from pathways_lite.scaling.task_dynamics_report import render

D = np.arange(1.0, 21) * 1e6
RNG = np.random.default_rng(0)


def curve(values: np.ndarray) -> Curve:
    return Curve(D, 3 - np.log(D) / 10, values)


def test_identical_curves_are_alike_and_reversed_ones_opposite() -> None:
    values = np.log(D) + 0.1 * RNG.standard_normal(len(D))
    assert similarity((D, values), (D, values)) == pytest.approx(1)
    assert similarity((D, values), (D, 0.2 + 0.01 * values)) == pytest.approx(1)  # scaled
    line = np.linspace(0, 1, len(D))
    assert similarity((D, line), (D, line[::-1])) == pytest.approx(-1)
    assert np.isnan(similarity((D, line), (D, 0 * line)))
    assert np.isnan(similarity((D, line), (D + D[-1], line)))  # nowhere both


def test_curves_are_compared_where_both_are() -> None:
    few = np.array([2e6, 5e6, 11e6, 40e6])
    assert similarity((few, np.sqrt(few)), (D, np.interp(D, few, np.sqrt(few)))) == pytest.approx(1)


def test_signal_to_noise_has_its_closed_form() -> None:
    assert signal_to_noise(np.linspace(2, 3, 20)) == pytest.approx(19 / np.sqrt(2.5))
    assert signal_to_noise(np.linspace(3, 2, 20)) == pytest.approx(-19 / np.sqrt(2.5))
    # Of a line of slope b with noise s, the last five vary by 2.5 b^2 + s^2.
    noisy = np.linspace(0, 19, 20) + 2 * RNG.standard_normal((4000, 20))
    assert np.mean([np.var(row[-5:], ddof=1) for row in noisy]) == pytest.approx(2.5 + 4, rel=0.05)
    assert np.isnan(signal_to_noise(np.ones(4)))
    assert np.isnan(signal_to_noise(np.ones(9)))


def test_trend_is_a_rank_correlation() -> None:
    assert rank_correlation(D, np.exp(D / D[-1])) == pytest.approx(1)
    assert rank_correlation(D, -np.sqrt(D)) == pytest.approx(-1)
    assert np.isnan(rank_correlation(D, 0 * D))


def test_rankings_that_never_change_are_predicted_from_the_start() -> None:
    curves = [curve(np.log(D) * slope) for slope in (1.0, 1.1, 1.3, 1.5, 2.0)]
    assert all(early_prediction(curves, fraction) == pytest.approx(1) for fraction in FRACTIONS)
    crossing = [curve(np.where(D[9] >= D, -slope, slope) * D) for slope in (1.0, 2.0, 3.0)]
    assert early_prediction(crossing, 0.5) == pytest.approx(-1)
    assert early_prediction(crossing, 0.75) == pytest.approx(1)
    assert np.isnan(early_prediction(curves[:2], 0.5))


def test_shuffled_ranks_have_tau_near_zero_within_the_interval_of_chance() -> None:
    taus = [early_prediction([curve(RNG.standard_normal(20)) for _ in range(9)], 0.5) for _ in range(600)]
    assert abs(np.mean(taus)) < 3 * np.std(taus) / np.sqrt(len(taus))
    assert 0.02 < np.mean(np.abs(taus) > chance_tau(9)) < 0.08
    # By enumeration: the variance of tau over all orders of four runs is 2 (2n + 5) / (9 n (n - 1)).
    exact = [
        np.mean([np.sign((a - b) * (i - j)) for (i, a), (j, b) in itertools.combinations(enumerate(order), 2)])
        for order in itertools.permutations(range(4))
    ]
    assert chance_tau(4) == pytest.approx(1.96 * np.std(exact))


def made_up_table(noise: float = 0.0) -> dict[str, np.ndarray]:
    rows = []
    for run, (task, chance) in itertools.product(range(4), (("sum", 0.0), ("sum:choices", 0.25))):
        for tokens in D:
            skill = (0.2 + 0.1 * run) * np.log(tokens / 5e5) / np.log(40)
            accuracy = chance + (1 - chance) * skill + noise * RNG.standard_normal()
            rows.append(
                {
                    "run": f"runs/{run}", "task": task, "D": tokens, "digest": f"{run}-{tokens}", "items": 64.0,
                    "held_out_loss": 4 - skill, "learning_rate": 1e-3 if tokens < 15e6 else 1e-4,
                    "accuracy": accuracy, "accuracy_se": 0.03, "log_p": -3 + skill, "log_p_se": 0.1,
                    "L": (3 - skill) / 5, "p": np.exp(-3 + skill), "brier": 1 - skill, "chance": chance,
                }
            )  # fmt: skip
    return to_columns(rows)


def test_continuous_scores_tell_earlier_than_a_noisy_accuracy() -> None:
    dynamics = task_dynamics(made_up_table(noise=0.15))
    by_metric = {each.metric: each for each in dynamics.statistics if each.task == "sum:choices"}
    assert set(by_metric) == {"accuracy", "log_p", "L", "p", "brier"}
    for metric in ("log_p", "L", "p", "brier"):
        assert by_metric[metric].early[0.1] == pytest.approx(1)
        assert by_metric[metric].trend == pytest.approx(1)
        assert by_metric[metric].signal_to_noise > by_metric["accuracy"].signal_to_noise
    assert by_metric["log_p"].same_tokens == pytest.approx(1)
    assert by_metric["log_p"].same_loss == pytest.approx(1)
    assert by_metric["accuracy"].trend < 0.95


def test_weights_of_a_tau_are_repeated_runs() -> None:
    a, b = RNG.integers(0, 5, 9), RNG.standard_normal(9)
    weights = np.stack([np.ones(9), *(np.bincount(RNG.integers(0, 9, 9), minlength=9) for _ in range(20))])
    repeated = [np.repeat(np.arange(9), row.astype(int)) for row in weights]
    expected = [stats.kendalltau(a[rows], b[rows]).statistic for rows in repeated]
    np.testing.assert_allclose(weighted_tau(a, b, weights), expected)
    assert weighted_tau(np.zeros(9), b, weights).tolist() == [0] * 21


def test_what_ranks_runs_as_their_accuracy_in_the_end() -> None:
    """Accuracy is 0 for all runs in the first half; ln p and the losses know the order from the start."""
    table = made_up_table()
    early = table["D"] <= 10e6
    table["accuracy"] = np.where(early, 0.0, table["accuracy"])
    found = {(each.task, each.metric, each.fraction): each for each in early_rankings(table)}
    for task in ("sum", "sum:choices", ALL_TASKS):
        for metric in ("log_p", "L", "brier", "held_out_loss"):
            each = found[task, metric, 0.25]
            assert (each.runs, each.tau.value, each.tau.low) == (4, pytest.approx(1), pytest.approx(1))
            assert each.over_accuracy.value == pytest.approx(1)
        assert found[task, "accuracy", 0.5].tau.value == 0
        assert found[task, "accuracy", 0.75].tau.value == pytest.approx(1)
        assert found[task, "p", 0.75].over_accuracy.value == pytest.approx(0)
    table["accuracy"] = np.zeros(len(early))
    assert early_rankings(table) == []


def test_a_task_is_predicted_from_its_family() -> None:
    table = made_up_table()
    assert unseen_error(table, "sum") == pytest.approx(0, abs=1e-12)
    assert np.isnan(unseen_error({name: column[table["task"] == "sum"] for name, column in table.items()}, "sum"))


def test_the_page_has_curves_and_escapes_names() -> None:
    table = made_up_table()
    table["task"] = np.array([task.replace("sum", "<b>sum") for task in table["task"]], dtype=object)
    page = render(table, task_dynamics(table), early_rankings(table))
    assert "<b>sum" not in page
    assert page.count("<picture") == 2
    assert "Which metric foretells accuracy" in page
    assert "Ringed: the learning rate has fallen" in page
    assert "Of 4 runs |tau| is below 0.96 in 95 % of random rankings" in page


def test_metrics_that_a_task_does_not_have_are_left_out() -> None:
    """Texts alone have a loss and no answers; written answers of the harness have an accuracy and no likelihood."""
    table = made_up_table()
    loss, written = ({name: column[table["task"] == "sum"] for name, column in table.items()} for _ in range(2))
    nothing = np.full(len(loss["D"]), np.nan)
    loss |= dict.fromkeys(("accuracy", "log_p", "p", "brier", "chance"), nothing)
    loss |= {"L": 3 - np.log(loss["D"]), "L_se": nothing + 0.1}
    written |= dict.fromkeys(("log_p", "L", "p", "brier", "chance"), nothing)
    assert [(each.metric, each.trend) for each in task_dynamics(loss).statistics] == [("L", pytest.approx(1))]
    assert [each.metric for each in task_dynamics(written).statistics] == ["accuracy"]
    page = render(loss, task_dynamics(loss), ())
    assert page.count("<picture") == 1
    assert "nats per byte of sum over training tokens" in page
    assert "Dashed: chance" not in page
    assert "accuracy of sum over training tokens" in render(written, task_dynamics(written), ())
