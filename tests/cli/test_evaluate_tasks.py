"""`evaluate --tasks`, with and without `--along`, and the commands of docs/downstream.md."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.invoke import invoke
from pathways_lite.cli.evaluate_along import measured_sentence
from pathways_lite.cli.evaluate_lm_eval import require_task_names
from pathways_lite.errors import UserError
from pathways_lite.evaluation import downstream
from pathways_lite.scaling.table import OWN_COLUMNS, read_table
from pathways_lite.training.load import TrainedModel

PAGE = (Path(__file__).parents[2] / "docs" / "downstream.md").read_text()
WORDS = [
    {"id": f"{n}", "prompt": f"tree {n}", "choices": ["river", "stone", "light"], "answer": answer}
    | ({"split": "train"} if n > 5 else {})
    for n, answer in enumerate(["river", "stone", "light", "stone"] * 2)
]


@pytest.fixture(scope="module")
def workplace(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with a checkpoint after each three steps, and a file of problems."""
    path = tmp_path_factory.mktemp("tasks")
    settings = ["stages.base.saving.every=3", "stages.base.evaluation.every=3", "stages.base.log_every=3"]
    for seed in (0, 1):
        run = path / "runs" / f"seed{seed}"
        assert invoke("train", recipe_file, *settings, f"seed={seed}", "--out", run).exit_code == 0
    (path / "words.jsonl").write_text("".join(json.dumps(record) + "\n" for record in WORDS))
    return path


@pytest.fixture
def here(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(workplace, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_one_checkpoint_is_evaluated(here: Path) -> None:
    arguments = ("evaluate", "runs/seed0", "--tasks", "words.jsonl,sum:choices", "--limit", 6)
    result = json.loads(invoke(*arguments, "--json").stdout)
    assert list(result["tasks"]) == ["words.jsonl", "sum:choices"]
    words = result["tasks"]["words.jsonl"]
    assert (words["items"], words["chance"]) == (6, pytest.approx(1 / 3))
    assert words["accuracy"] == words["accuracy_token"]
    table = invoke(*arguments).output
    assert f"{words['accuracy']:.1%} ± {words['accuracy_se']:.1%}" in table
    shots = json.loads(invoke("evaluate", "runs/seed0", "--tasks", "words.jsonl", "--shots", 1, "--json").stdout)
    assert shots["tasks"]["words.jsonl"]["log_p"] != words["log_p"]


def test_every_checkpoint_of_every_run_has_a_row_for_each_task(here: Path) -> None:
    arguments = ("evaluate", "runs", "--tasks", "words.jsonl,sum:choices", "--limit", 4, "--along", "--out", "t.csv")
    result = json.loads(invoke(*arguments, "--json").stdout)
    assert (result["measured"], result["kept"]) == (16, 0)
    table = read_table(here / "t.csv")
    assert sorted(set(table["run"])) == ["runs/seed0", "runs/seed1"]
    for task in ("words.jsonl", "sum:choices"):
        assert table["step"][table["task"] == task].tolist() == [3, 3, 6, 6, 9, 9, 12, 12]
    last = (table["step"] == 12) & (table["run"] == "runs/seed1") & (table["task"] == "words.jsonl")
    alone = json.loads(invoke("evaluate", "runs/seed1", "--tasks", "words.jsonl", "--limit", 4, "--json").stdout)
    assert table["log_p"][last][0] == pytest.approx(alone["tasks"]["words.jsonl"]["log_p"], rel=1e-5)
    assert np.isfinite(table["held_out_loss"]).all()
    assert np.isfinite(table["learning_rate"]).all()
    assert Path(result["page"]).read_text().count("<picture") == 2
    assert {each["metric"] for each in result["statistics"]["tasks"]} == {"accuracy", "log_p", "L", "p", "brier"}
    assert result["early"] == []  # two runs are no ranking


def test_a_command_that_was_killed_continues_to_the_same_bytes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("evaluate", "runs", "--tasks", "words.jsonl", "--limit", 4, "--along", "--out")
    invoke(*arguments, "whole.csv")
    original, left = downstream.TaskEvaluator.evaluate, iter(range(3))

    def evaluate(self, params, report):
        if next(left, None) is None:
            raise SystemExit(137)
        return original(self, params, report)

    with monkeypatch.context() as patch:
        patch.setattr(downstream.TaskEvaluator, "evaluate", evaluate)
        invoke(*arguments, "part.csv")
    assert len(read_table(here / "part.csv")["step"]) == 3
    rest = json.loads(invoke(*arguments, "part.csv", "--json").stdout)
    assert (rest["measured"], rest["kept"]) == (5, 3)
    assert (here / "part.csv").read_bytes() == (here / "whole.csv").read_bytes()
    more = json.loads(invoke("evaluate", "runs", "--tasks", "words.jsonl,sum", "--limit", 4, "--along", "--out",
                             "part.csv", "--json").stdout)  # fmt: skip
    assert (more["measured"], more["kept"]) == (8, 8)  # the new task alone


def test_laws_are_fitted_to_the_table(here: Path) -> None:
    invoke("evaluate", "runs", "--tasks", "words.jsonl", "--limit", 6, "--along", "--out", "t.csv")
    for law in ("task-accuracy", "task-compute"):
        fitted = invoke("fit", law, "t.csv", "--where", "task == 'words.jsonl'", "--bootstraps", 0, "--json")
        assert json.loads(fitted.stdout)["rows"] == 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tasks", "summ"], "there is no task 'summ'. Did you mean 'sum'?"),
        (["--tasks", ","], "--tasks names no task"),
        (
            ["--tasks", "sum", "--shots", "9"],
            "and the model was trained on sequences of 32; not one shot fits: leave --shots out, ",
        ),
        (["--shots", "2"], "--shots, --limit, --mode and --include are for --tasks"),
        (["--tasks", "sum", "--text", "words.jsonl"], "--tasks is evaluated instead of held-out text"),
        (["--tasks", "sum", "--mode", "nlg"], "the model was not trained with mode 'nlg'"),
    ],
)
def test_mistakes_are_sentences(here: Path, arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        invoke("evaluate", "runs/seed0", *arguments)
    assert sentence in str(error.value)


@pytest.mark.parametrize("along", [(), ("--along",)])
def test_what_does_not_fit_is_refused_before_parameters_are_read(
    here: Path, monkeypatch: pytest.MonkeyPatch, along: tuple[str, ...]
) -> None:
    monkeypatch.setattr(TrainedModel, "params", lambda self: pytest.fail("parameters were read"))
    with pytest.raises(UserError, match="not one shot fits: leave --shots out, "):
        invoke("evaluate", "runs/seed0", "--tasks", "sum", "--shots", 9, *along)
    assert not (here / "runs/seed0/tasks.csv").exists()


def test_accuracies_are_printed_by_step_and_empty_columns_are_left_out(here: Path) -> None:
    for log in here.glob("runs/*/base/log.jsonl"):
        log.unlink()  # which has the held-out losses
    arguments = ("evaluate", "runs/seed0", "--tasks", "words.jsonl,sum:choices", "--limit", 4, "--along", "--every", 2)
    first = invoke(*arguments).stdout
    table = read_table(here / "runs/seed0/tasks.csv")
    assert not {"held_out_loss", "learning_rate", "P"} & table.keys()
    for name, column in table.items():
        assert name in OWN_COLUMNS or any(value == value and value != "" for value in column.tolist()), name
    shown = [re.split(r"[│ ]+", line.strip("│ ")) for line in first.splitlines() if re.match(r"│ +(6|12) │", line)]
    assert [row[0] for row in shown] == ["6", "12"]
    for row in shown:
        for place, task in ((-2, "words.jsonl"), (-1, "sum:choices")):
            accuracy = table["accuracy"][(table["step"] == float(row[0])) & (table["task"] == task)][0]
            assert row[place] == f"{accuracy:.1%}"
    assert (
        "0 results measured; the table has 4 of an earlier call too" in invoke(*arguments).stdout
    )  # and its page is drawn without these columns


def test_other_items_are_not_mixed_into_a_table(here: Path) -> None:
    arguments = ("evaluate", "runs/seed0", "--tasks", "words.jsonl", "--along")
    invoke(*arguments, "--limit", 4)
    with pytest.raises(UserError, match=r"results of task words.jsonl on other items, or with other shots"):
        invoke(*arguments, "--limit", 5)
    with pytest.raises(UserError, match="has no column text; name another --out"):
        invoke("evaluate", "runs/seed0", "--along", "--out", "runs/seed0/tasks.csv")


def test_the_commands_of_the_page_work(here: Path) -> None:
    invoke("tasks", "make", "sum", "tasks/sum", "--documents", 10, "--problems", 4)
    shutil.copytree("runs/seed0", "runs/sums")
    (here / "capitals.jsonl").write_text((here / "words.jsonl").read_text())
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("pathways-lite evaluate")]
    assert len(commands) >= 3
    for command in commands:
        # The tiny run reads 32 tokens.
        arguments = shlex.split(command.replace("--shots 2", "--shots 0"))[1:]
        if "--limit" not in arguments:
            arguments += ["--limit", "4"]
        assert invoke(*arguments).exit_code == 0, command


@pytest.mark.parametrize("options", [(), ("--along",)])
def test_a_task_that_nobody_has_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """Neither a checkpoint nor lm-evaluation-harness, which takes half a minute to list its tasks."""
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)  # whoever imports it fails
    with pytest.raises(UserError, match=r"there is no task 'sums'. Did you mean 'sum'\?"):
        invoke("evaluate", tmp_path / "no_run", "--tasks", "sums", *options)


def test_names_of_harness_tasks_are_found_in_its_files(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="extra lm-eval")
    (tmp_path / "mine.yaml").write_text("task: of_mine\ndataset_path: json\n")
    (tmp_path / "group.yaml").write_text("group: ours\ntask:\n  - of_mine\n  - 'quoted'\n")
    require_task_names(["piqa", "of_mine", "ours", "quoted"], tmp_path)
    with pytest.raises(UserError, match=r"there is no task 'pica'. Did you mean 'piqa'\?"):
        require_task_names(["piqa", "pica"], None)


def test_what_was_measured_is_counted_and_what_was_not_is_not_named() -> None:
    assert measured_sentence(8, 0, "result") == "8 results measured"
    assert measured_sentence(1, 3, "checkpoint") == "1 checkpoint measured; the table has 3 of an earlier call too"
