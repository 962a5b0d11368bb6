"""`evaluate --tasks --along` for tasks of lm-evaluation-harness: a row each, beside those of our own."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.harness_tasks import write_tasks
from helpers.invoke import invoke
from pathways_lite.errors import UserError
from pathways_lite.scaling.table import read_table

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `lm-eval`)")

from pathways_lite.cli import evaluate_lm_eval
from pathways_lite.cli.evaluate_lm_eval import HarnessTasks
from pathways_lite.cli.evaluate_lm_eval_rows import _accuracy, _own_metrics, task_columns
from pathways_lite.cli.evaluate_tasks import TaskChoice
from pathways_lite.training.load import load_model

METRIC = "\nmetric_list: [{{metric: {}, aggregation: {}, higher_is_better: {}}}]\n"
TASKS = {
    "toy_mc": ("acc", "mean", "true", 'output_type: multiple_choice\ndoc_to_text: "{{question}}"\n'
               "doc_to_choice: choices\ndoc_to_target: label\n"),
    "toy_word": ("acc", "mean", "true", 'output_type: loglikelihood\ndoc_to_text: "{{question}}"\n'
                 'doc_to_target: " {{choices[0]}}"\n'),
    "toy_text": ("bits_per_byte", "bits_per_byte", "false", 'output_type: loglikelihood_rolling\ndoc_to_text: ""\n'
                 'doc_to_target: "{{question}}"\n'),
    "toy_written": ("exact_match", "mean", "true", 'output_type: generate_until\ndoc_to_text: "{{question}}"\n'
                    'doc_to_target: "{{choices[0]}}"\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 4}\n'),
}  # fmt: skip
NAMES = ",".join(TASKS)


@pytest.fixture(scope="module")
def workplace(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint after each six steps, and tasks of every kind."""
    path = tmp_path_factory.mktemp("along")
    settings = ["stages.base.saving.every=6", "stages.base.evaluation.every=6"]
    assert invoke("train", recipe_file, *settings, "--out", path / "run").exit_code == 0
    rows = [{"question": f"{n} and", "choices": [f"{n + 1}", "x", "yz"], "label": 0} for n in range(5)]
    tasks = {name: METRIC.format(*metric) + kind for name, (*metric, kind) in TASKS.items()}
    write_tasks(path, rows, tasks)
    return path


@pytest.fixture
def here(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    shutil.copytree(workplace / "run", tmp_path / "run")
    shutil.copytree(workplace / "tasks", tmp_path / "tasks")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def along(*tasks: str, out: str, **options: object) -> dict[str, Any]:
    more = [word for name, value in options.items() for word in (f"--{name}", value)]
    arguments = ("evaluate", "run", "--tasks", ",".join(tasks), "--include", "tasks", "--along", "--out", out, *more)
    return dict(json.loads(invoke(*arguments, "--json").stdout))


def test_every_checkpoint_has_a_row_for_each_task_of_either_kind(here: Path) -> None:
    result = along("sum:choices", NAMES, out="t.csv", limit=4)
    assert (result["measured"], result["kept"]) == (10, 0)
    table = read_table(here / "t.csv")
    rows = {(task, int(step)): i for i, (task, step) in enumerate(zip(table["task"], table["step"], strict=True))}
    assert set(rows) == {(task, step) for task in ("sum:choices", *TASKS) for step in (6, 12)}
    assert table["items"].tolist() == [4.0] * 10
    assert np.isfinite(table["held_out_loss"]).all()
    alone = json.loads(invoke("evaluate", "run", "--tasks", NAMES, "--include", "tasks", "--limit", 4, "--json").stdout)
    found = alone["lm_eval"]["results"]

    def value(task: str, column: str) -> float:
        return float(table[column][rows[task, 12]])

    for task, metric in (("toy_mc", "acc"), ("toy_word", "acc"), ("toy_written", "exact_match")):
        assert value(task, "accuracy") == value(task, f"lm_eval_{metric}") == found[task][f"{metric},none"]
        assert value(task, "accuracy_se") == pytest.approx(found[task][f"{metric}_stderr,none"])
    assert (value("toy_mc", "chance"), value("toy_word", "chance")) == (pytest.approx(1 / 3), 0)
    for task in ("toy_mc", "toy_word"):
        assert all(math.isfinite(value(task, name)) for name in ("log_p", "log_p_se", "p", "brier", "L", "L_se"))
        assert value(task, "log_p") < 0 < value(task, "p") < 1
    assert value("toy_text", "bits_per_byte") == pytest.approx(found["toy_text"]["bits_per_byte,none"], rel=1e-2)
    assert math.isnan(value("toy_text", "accuracy"))
    assert math.isnan(value("toy_written", "log_p"))
    page = Path(result["page"]).read_text()
    assert page.count("<picture") == 5
    assert all(name in page for name in TASKS)


def test_scores_of_the_right_answer_follow_from_what_the_harness_has_measured(here: Path) -> None:
    choice = TaskChoice("toy_mc", 0, None, None, here / "tasks")
    tasks = HarnessTasks(["toy_mc"], choice)
    model = load_model("run")
    results = tasks.run(model, samples=True)
    columns = task_columns(results, tasks.tasks["toy_mc"])
    samples = results["samples"]["toy_mc"]
    logp = np.array([[response[0][0] for response in sample["resps"]] for sample in samples])
    p = np.exp(logp) / np.exp(logp).sum(axis=1, keepdims=True)
    assert columns["items"] == 5
    assert columns["log_p"] == pytest.approx(logp[:, 0].mean())
    assert columns["log_p_se"] == pytest.approx(logp[:, 0].std(ddof=1) / np.sqrt(5))
    assert columns["loss"] == pytest.approx(np.mean(-logp[:, 0] / 2))  # a space and a digit
    assert columns["p"] == pytest.approx(p[:, 0].mean())
    assert columns["brier"] == pytest.approx(np.mean((1 - p[:, 0]) ** 2 + p[:, 1] ** 2 + p[:, 2] ** 2))
    assert columns["accuracy"] == np.mean(logp.argmax(axis=1) == 0)


def test_a_command_that_was_killed_continues_to_the_same_bytes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    along("toy_mc", "sum", out="whole.csv", limit=3)
    original, left = evaluate_lm_eval.HarnessTasks.run, iter(range(1))

    def run(self: HarnessTasks, *arguments: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise SystemExit(137)
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate_lm_eval.HarnessTasks, "run", run)
        invoke("evaluate", "run", "--tasks", "toy_mc,sum", "--include", "tasks", "--along", "--out", "part.csv",
               "--limit", 3)  # fmt: skip
    assert len(read_table(here / "part.csv")["step"]) == 2
    rest = along("toy_mc", "sum", out="part.csv", limit=3)
    assert (rest["measured"], rest["kept"]) == (2, 2)
    assert (here / "part.csv").read_bytes() == (here / "whole.csv").read_bytes()
    more = along("toy_mc", "sum", "toy_word", out="part.csv", limit=3)
    assert (more["measured"], more["kept"]) == (2, 4)  # the new task alone


def test_other_items_or_shots_are_not_mixed_into_a_table(here: Path) -> None:
    along("toy_mc", out="t.csv", limit=3)
    for options in ({"limit": 4}, {"limit": 3, "shots": 1}):
        with pytest.raises(UserError, match="results of task toy_mc on other items, or with other shots"):
            along("toy_mc", out="t.csv", **options)
    with pytest.raises(UserError, match=r"there is no task 'toy_mcc'\. Did you mean 'toy_mc'\?"):
        along("toy_mcc", out="t.csv")


def test_the_accuracy_is_a_share_whatever_its_value() -> None:
    """A BLEU of 0.5 at one checkpoint, of 100, is none; errors are no metrics."""
    results = {"alias": "x", "bleu,none": 0.5, "exact_match,strict": 0.25, "exact_match_stderr,strict": 0.1,
               "acc_norm,none": 0.75, "acc_norm_stderr,none": "N/A"}  # fmt: skip
    assert _accuracy(results) == {"accuracy": 0.25, "accuracy_se": 0.1}
    assert _accuracy({"acc_norm,none": 0.75, "acc,none": 0.5}) == {"accuracy": 0.5, "accuracy_se": None}
    assert _accuracy({"bleu,none": 0.5}) == {"accuracy": None, "accuracy_se": None}
    assert _own_metrics(results) == {
        "lm_eval_bleu": 0.5, "lm_eval_bleu_se": None, "lm_eval_exact_match_strict": 0.25,
        "lm_eval_exact_match_strict_se": 0.1, "lm_eval_acc_norm": 0.75, "lm_eval_acc_norm_se": None,
    }  # fmt: skip
