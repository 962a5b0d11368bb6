"""Predictions of a larger run from small ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.scaling.ladder import Ladder, fit_ladder
from pathways_lite.scaling.ladder_report import STAR_OFFSET, draw_ladder, write_ladder_report
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.report import render
from pathways_lite.tracking.plot_style import style

GOAL = {"N": 4e9, "D": 1e11}
LOSS = 1.8 + 480 / 4e9**0.35 + 2000 / 1e11**0.37


@pytest.fixture(scope="module")
def ladder(rungs: dict[str, np.ndarray]) -> Ladder:
    return fit_ladder(CHINCHILLA, rungs, GOAL)


def test_the_law_of_the_rungs_predicts(ladder: Ladder) -> None:
    assert ladder.predicted.low < ladder.predicted.value < ladder.predicted.high
    assert ladder.predicted.value == pytest.approx(LOSS, rel=5e-3)
    assert ladder.compute_ratio == pytest.approx(4e9 * 1e11 / (1e9 * 8e10))
    assert ladder.held_out_error.held_out == 1
    assert ladder.held_out_error.worst < 5e-3
    assert ladder.relative_error is None
    assert "5 times the compute" in " ".join(ladder.sentences())


def test_the_prediction_is_compared_with_the_measurement(ladder: Ladder) -> None:
    for share, word in ((0.5, "inside"), (1.01, "outside")):
        measured = ladder.predicted.low + share * (ladder.predicted.high - ladder.predicted.low)
        trained = replace(ladder, measured=measured)
        assert f"{word} that of the law" in trained.sentences()[-1]
        assert trained.relative_error == pytest.approx(ladder.predicted.value / measured - 1)


def test_the_intervals_of_law_run_and_forecast_are_nested(ladder: Ladder) -> None:
    assert ladder.fit.method == "profile"
    assert ladder.of_run.low < ladder.predicted.low < ladder.predicted.high < ladder.of_run.high
    assert ladder.of_forecast.low <= ladder.of_run.low < ladder.of_run.high <= ladder.of_forecast.high


@pytest.mark.slow
def test_the_report_is_written(ladder: Ladder, tmp_path: Path) -> None:
    for path in write_ladder_report(replace(ladder, measured=LOSS), tmp_path):
        assert path.stat().st_size > 1000
    page = (tmp_path / "ladder.html").read_text()
    assert page.index("The run to predict") < page.index("Caveats" if ladder.fit.notes else "Parameters")
    assert "The run to predict" not in render(ladder.fit)


def test_the_goal_is_seen_above_a_rung_of_its_size_and_the_star_beside_its_bar(ladder: Ladder) -> None:
    size = float(ladder.fit.data["N"].max())
    same = replace(ladder, goal_inputs={**ladder.goal_inputs, "N": size}, measured=ladder.predicted.value)
    with style("light") as palette:
        figure = draw_ladder(same, palette)
        (ax,) = figure.axes
        lines = {str(line.get_label()): line for line in ax.get_lines()}
        goal = next(line for label, line in lines.items() if "to predict" in label)
        others = [line for line in ax.get_lines() if line.get_linestyle() != "None" and line is not goal]
        assert all(goal.get_zorder() > line.get_zorder() for line in others if len(line.get_xdata()) == 60)
        assert all(goal.get_linewidth() > line.get_linewidth() for line in others if len(line.get_xdata()) == 60)
        star = lines["measured"]
        figure.canvas.draw()
        at_goal = ax.transData.transform((same.goal_inputs["D"], same.predicted.value))
        drawn = star.get_transform().transform((same.goal_inputs["D"], same.predicted.value))
        assert (drawn - at_goal).tolist() == pytest.approx([STAR_OFFSET * figure.dpi / 72, 0])


def test_a_ladder_without_trained_rungs_is_refused(tmp_path: Path, corpus: Path) -> None:
    """The error says what to type."""
    config = Path(__file__).parents[2] / "configs" / "ladders" / "toy.py"
    text = config.read_text().replace("corpora/python_1k", str(corpus))
    (tmp_path / "toy.py").write_text(text)
    arguments = ["fit", "ladder", str(tmp_path / "toy.py"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="study run"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
