"""Tasks in the evaluations of a stage: in the log, the summary and the page, the same after a resumption."""

import json
from pathlib import Path

import pytest

from helpers.run_helpers import TOTAL, DieAfter, Died, StopAfter, digest, log_bytes, run
from pathways_lite.cli.evaluate_tasks import TaskChoice, task_evaluator
from pathways_lite.errors import UserError
from pathways_lite.recipe import Evaluation, Recipe, apply_overrides, load_recipe, stage_identity
from pathways_lite.tracking.report import write_report
from pathways_lite.tracking.run_data import read_run
from pathways_lite.training.load import load_model
from pathways_lite.training.resolve import resolve_recipe

TASKS = ("sum:choices", "sum")


@pytest.fixture(scope="module")
def with_tasks(recipe_file: Path) -> Recipe:
    settings = [f"stages.base.evaluation.tasks={','.join(TASKS)}", "stages.base.evaluation.task_items=4"]
    return apply_overrides(load_recipe(recipe_file), settings)


@pytest.fixture(scope="module")
def trained(with_tasks: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "run"
    assert run(with_tasks, path) == 0
    return path


def test_results_are_in_the_log_the_summary_and_on_the_page(trained: Path) -> None:
    (stage,) = read_run(trained).stages
    rows = stage.rows_of_kind("eval")
    assert [row["step"] for row in rows] == [6, TOTAL]
    for row in rows:
        assert tuple(row["tasks"]) == TASKS
        assert (row["tasks"]["sum:choices"]["items"], row["tasks"]["sum:choices"]["chance"]) == (4, 0.25)
    assert stage.summary["tasks"] == json.loads(json.dumps(rows[-1]["tasks"]))
    page = write_report(trained, trained / "page.html").read_text()
    assert "What it can do" in page
    assert "Tasks: accuracy, with chance" in page
    loss = stage.tasks["sum"]["loss"]
    assert f"{loss:.3f}" in page


def test_they_are_what_the_command_measures(trained: Path) -> None:
    model = load_model(trained)
    choice = TaskChoice(",".join(TASKS), 0, 4, None)
    found = task_evaluator(model, choice.open(list(TASKS)), choice).evaluate(model.params())
    (stage,) = read_run(trained).stages
    for name in TASKS:
        assert found[name].pop("digest") == stage.tasks[name].pop("digest")
        assert found[name].pop("normalization", None) == stage.tasks[name].pop("normalization", None)
        assert found[name] == pytest.approx(stage.tasks[name], rel=1e-4, nan_ok=True)


def test_a_resumed_run_has_the_same_bits(with_tasks: Recipe, trained: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    assert run(with_tasks, stopped, StopAfter(5)) == 128 + 15
    assert run(with_tasks, stopped) == 0
    died = tmp_path / "died"
    with pytest.raises(Died):
        run(with_tasks, died, DieAfter("evaluation", 6))
    assert run(with_tasks, died) == 0
    for path in (stopped, died):
        assert log_bytes(path) == log_bytes(trained)
        assert digest(path) == digest(trained)


def test_tasks_do_not_change_what_is_trained(recipe: Recipe, with_tasks: Recipe) -> None:
    assert stage_identity(resolve_recipe(recipe), 0) == stage_identity(resolve_recipe(with_tasks), 0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["tasks=summ"], "there is no task 'summ'. Did you mean 'sum'?"),
        (
            ["tasks=sum", "shots=9"],
            "and the model was trained on sequences of 32; not one shot fits: leave --shots out",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(recipe: Recipe, settings: list[str], sentence: str) -> None:
    changed = apply_overrides(recipe, [f"stages.base.evaluation.{setting}" for setting in settings])
    with pytest.raises(UserError) as error:
        resolve_recipe(changed)
    assert sentence in str(error.value)


def test_settings_of_tasks_need_tasks() -> None:
    with pytest.raises(ValueError, match=r"name some: evaluation\.tasks=sum"):
        Evaluation(shots=2)
