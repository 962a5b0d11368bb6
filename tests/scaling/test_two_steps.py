"""A task in two steps, loss and accuracy: the value, the interval of both, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.synthetic_runs import published_values, synthetic_runs
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.scaling.fit import fit_law
from pathways_lite.scaling.law import Law, Parameter
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.laws.registry import LAWS
from pathways_lite.scaling.laws.tasks import TASK_ACCURACY
from pathways_lite.scaling.losses import LeastSquares
from pathways_lite.scaling.solver import predict
from pathways_lite.scaling.two_steps import TwoSteps


@pytest.fixture(scope="module")
def steps() -> TwoSteps:
    runs = synthetic_runs(CHINCHILLA, rows=40, noise=2e-3)
    accuracy = predict(TASK_ACCURACY, published_values(TASK_ACCURACY), runs)
    noisy = accuracy + 3e-3 * np.random.default_rng(1).normal(size=40)
    return TwoSteps(
        fit_law(CHINCHILLA, runs, bootstraps=50, starts=5),
        fit_law(TASK_ACCURACY, {"L": runs["L"], "accuracy": noisy}, bootstraps=50, starts=5),
    )


def test_two_steps_are_one_after_the_other(steps: TwoSteps) -> None:
    assert steps.law.inputs == ("N", "D")
    inputs = {"N": np.array([3e9, 3e10]), "D": np.array([1e11, 1e12])}
    results = steps.predict(inputs)
    loss = steps.first.predict(inputs)
    for result, step in zip(results, loss, strict=True):
        alone = steps.second.predict({"L": step.value})[0]
        assert result.value == pytest.approx(alone.value)
        assert result.low < result.value < result.high
        assert result.high - result.low >= 0.8 * (alone.high - alone.low), "the errors of both laws"
    with pytest.raises(UserError, match="not BLEU"):
        TwoSteps(fit_law(LAWS["bleu"], synthetic_runs(LAWS["bleu"]), starts=3), steps.second)


def test_two_steps_without_resamples_add_the_limits_in_quadrature(steps: TwoSteps) -> None:
    resampled = TwoSteps(*(
        fit_law(fit.law, fit.data, bootstraps=200, starts=5, method="bootstrap") for fit in (steps.first, steps.second)
    ))  # fmt: skip
    inputs = {"N": np.array([3e9]), "D": np.array([1e11])}
    for without, drawn in zip(steps.predict(inputs), resampled.predict(inputs), strict=True):
        assert without.high - without.low == pytest.approx(drawn.high - drawn.low, rel=0.4)


def _line(name: str, x: str, y: str) -> Law:
    parameters = (Parameter("a", (-1.0, 1.0), kind="real"), Parameter("b", (-1.0, 1.0), kind="real"))
    return Law(
        name=name, title=name, source="", formula="y = a + b x", inputs=(x,), target=y, parameters=parameters,
        predict=lambda v, c: v["a"] + v["b"] * c[x], link="raw", loss=LeastSquares(), any_sign=(x,),
    )  # fmt: skip


def test_two_steps_of_lines_have_the_interval_of_their_composition() -> None:
    """Of y = a + b (c + d x) with independent errors, the variance is (b se1)² + se2²: quadrature is exact."""
    rng = np.random.default_rng(2)
    x = np.linspace(0, 1, 14)
    first = fit_law(_line("first", "x", "L"), {"x": x, "L": 3 - x + 0.05 * rng.normal(size=14)}, units=False,
                    method="delta", starts=3)  # fmt: skip
    L = np.linspace(1.5, 3, 14)
    second = fit_law(_line("second", "L", "accuracy"), {"L": L, "accuracy": 1 - 0.2 * L + 0.02 * rng.normal(size=14)},
                     units=False, method="delta", starts=3)  # fmt: skip
    (both,) = TwoSteps(first, second).predict({"x": np.array([2.0])})
    (loss,) = first.predict({"x": np.array([2.0])})
    (own,) = second.predict({"L": np.array([loss.value])})
    expected = np.hypot(second.values["b"] * (loss.high - loss.low) / 2, (own.high - own.low) / 2)
    assert both.high - both.value == pytest.approx(expected)
    assert both.value - both.low == pytest.approx(expected)


@pytest.mark.slow
def test_two_steps_cover_the_accuracy() -> None:
    """Of 150 ladders of 14 runs, the interval holds the true accuracy of a run eight times as large in 95 %."""
    truth, task = published_values(CHINCHILLA), published_values(TASK_ACCURACY)
    rng = np.random.default_rng(4)
    N, M = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e8, 3e9, 7), [20.0, 80.0], indexing="ij"))
    runs = {"N": N, "D": N * M}
    goal = {"N": np.array([8e9]), "D": np.array([8e9 * 60])}
    L = predict(CHINCHILLA, truth, runs)
    accuracy = predict(TASK_ACCURACY, task, {"L": L})
    true = float(predict(TASK_ACCURACY, task, {"L": predict(CHINCHILLA, truth, goal)})[0])
    held = 0
    for _ in range(150):
        measured = {**runs, "L": L * np.exp(2e-3 * rng.normal(size=14))}
        noisy = accuracy + 4e-3 * rng.normal(size=14)
        steps = TwoSteps(
            fit_law(CHINCHILLA, measured, loss=LeastSquares(), method="delta", starts=4, units=False),
            fit_law(TASK_ACCURACY, {"L": measured["L"], "accuracy": noisy}, loss=LeastSquares(), method="delta",
                    starts=4, units=False),
        )  # fmt: skip
        (interval,) = steps.predict(goal)
        held += interval.low <= true <= interval.high
    assert held / 150 == pytest.approx(0.95, abs=0.045)


def test_without_examples_a_fine_tuning_loss_has_an_interval() -> None:
    law = LAWS["rectified"]
    fit = fit_law(law, synthetic_runs(law, rows=20, noise=3e-3), bootstraps=20, starts=5)
    assert fit.method == "delta"
    (none,) = fit.predict({"D_examples": np.zeros(1)})
    assert none.low < none.value < none.high


def test_the_command_predicts_through_a_loss(steps: TwoSteps, tmp_path: Path) -> None:
    steps.first.save(tmp_path / "loss.json")
    steps.second.save(tmp_path / "task.json")
    arguments = ["fit", "predict", str(tmp_path / "task.json"), "--through", str(tmp_path / "loss.json"), "N=3B,30B"]
    facts = json.loads(CliRunner().invoke(app, [*arguments, "D=100B,1T", "--json"], catch_exceptions=False).stdout)
    assert [point["N"] for point in facts["points"]] == [3e9, 3e10]
    assert facts["points"][0]["value"] > 0.25
