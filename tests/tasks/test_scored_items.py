"""Tasks as they are scored: shots from training problems, choices, files, and what is refused."""

import json
from pathlib import Path

import pytest

from pathways_lite.errors import UserError
from pathways_lite.tasks import find_family, read_problems
from pathways_lite.tasks.make import make
from pathways_lite.tasks.scored_items import Task, open_task, open_tasks

CAPITALS = [
    {"id": name, "prompt": f"The capital of {name} is", "answer": city, "choices": ["Rome", "Paris", "Oslo", "Lima"]}
    for name, city in {"Italy": "Rome", "France": "Paris", "Norway": "Oslo", "Peru": "Lima"}.items()
]


def write_lines(path: Path, records: list[dict]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize("family", ["sum", "arithmetic", "facts", "scramble"])
def test_one_choice_is_right_and_its_place_is_random(family: str) -> None:
    free, choices = open_task(family, limit=24), open_task(f"{family}:choices", limit=24)
    assert [item.id for item in free.items] == [item.id for item in choices.items]
    assert (free.chance, choices.chance) == (0.0, 0.25)
    for asked, item in zip(free.items, choices.items, strict=True):
        assert asked.verifier is not None
        assert item.verifier is None
        verdicts = [asked.verifier.judge(answer).correct for answer in item.answers]
        assert verdicts == [place == item.right for place in range(4)]
        assert len(set(item.answers)) == 4
        assert item.solution == asked.solution.rstrip()
    assert len({item.right for item in choices.items}) == 4


def test_shots_are_those_of_tasks_make_and_never_the_item(tmp_path: Path) -> None:
    make(find_family("sum"), tmp_path / "plain", documents=10, problems=8, seed=3)
    make(find_family("sum"), tmp_path / "shots", documents=10, problems=8, seed=3, shots=4)
    prompts = [problem.prompt for problem in read_problems(tmp_path / "shots" / "problems.jsonl")]
    for task in (open_task("sum", shots=4, limit=8, seed=3), open_task(str(tmp_path / "plain"), shots=4)):
        assert [item.prompt for item in task.items] == prompts
        for item in task.items:
            *before, own = item.prompt.split("\n\n")
            assert len(before) == 4
            assert own not in {shot.rsplit(" ", 1)[0] for shot in before}
    with pytest.raises(UserError, match=r"was made with 4 shots before each prompt; leave --shots out"):
        open_task(str(tmp_path / "shots"), shots=1)


def test_more_items_begin_with_the_same_and_parts_of_a_family_are_tasks() -> None:
    few, many = open_task("arithmetic:2D+", limit=5, shots=1), open_task("arithmetic:2D+", limit=9, shots=1)
    assert many.items[:5] == few.items
    assert all("plus" in line for item in few.items for line in item.prompt.splitlines() if line.startswith("Q:"))
    assert few.digest != many.digest


def test_a_file_may_have_choices_and_problems_for_training(tmp_path: Path) -> None:
    records = [record | {"split": "train"} if n < 2 else record for n, record in enumerate(CAPITALS)]
    task = open_task(write_lines(tmp_path / "capitals.jsonl", records), shots=2)
    assert [item.id for item in task.items] == ["Norway", "Peru"]
    assert task.items[0].answers == (" Rome", " Paris", " Oslo", " Lima")
    assert task.items[0].solution == " Oslo"
    shots = {"The capital of Italy is Rome", "The capital of France is Paris"}
    for item in task.items:
        *before, own = item.prompt.split("\n\n")
        assert set(before) == shots
        assert own == f"The capital of {item.id} is"


def test_a_variant_of_the_item_is_no_shot(tmp_path: Path) -> None:
    records = [
        {"id": "a", "prompt": "1+2=", "answer": "3", "group": "1+2", "split": "train"},
        {"id": "b", "prompt": "3+4=", "answer": "7", "group": "3+4", "split": "train"},
        {"id": "c", "prompt": "2+1=", "answer": "3", "group": "1+2"},
    ]
    name = write_lines(tmp_path / "sums.jsonl", records)
    assert open_task(name, shots=1).items[0].prompt == "3+4= 7\n\n2+1="
    with pytest.raises(UserError, match=r"has 1 problem for training beside 'c', so --shots 2 is too many"):
        open_task(name, shots=2)


def test_the_normalization_of_a_file_decides_its_accuracy(tmp_path: Path) -> None:
    name = write_lines(tmp_path / "a.jsonl", [record | {"normalization": "unconditional"} for record in CAPITALS])
    assert open_task(name).normalization == "unconditional"
    name = write_lines(tmp_path / "b.jsonl", [record | {"normalization": "tokens"} for record in CAPITALS])
    with pytest.raises(UserError, match=r"there is no normalization 'tokens'\. Did you mean 'token'"):
        open_task(name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("summ", "there is no task 'summ'. Did you mean 'sum'?"),
        ("arithmetic:2D", "there is no task 'arithmetic:2D'."),
        ("chain:choices", "chain:choices: its answers have no wrong ones to stand beside them"),
        ("gsm8k", "gsm8k comes without data; name a file of it by its path"),
        ("nowhere/problems.jsonl", "there is no file of problems nowhere/problems.jsonl"),
    ],
)
def test_unknown_tasks_are_refused(name: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        open_task(name)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"choices": []}, "two or more different choices are needed"),
        ({"choices": ["Rome", " "]}, "choices are texts, none of them empty"),
        ({"choices": {"text": ["Rome"]}}, "choices are texts"),
        ({"choices": ["Bonn", "Bern"]}, "its answer 'Rome' is not one of its choices"),
        ({"choices": None}, "'France' has choices and 'Italy' has none"),
        ({"prompt": None, "messages": []}, "has messages and no prompt"),
    ],
)
def test_what_is_no_choice_is_refused(tmp_path: Path, change: dict, sentence: str) -> None:
    name = write_lines(tmp_path / "wrong.jsonl", [CAPITALS[0] | change, *CAPITALS[1:]])
    with pytest.raises(UserError) as error:
        open_task(name)
    assert sentence in str(error.value)


def test_shots_need_problems_for_training(tmp_path: Path) -> None:
    name = write_lines(tmp_path / "capitals.jsonl", CAPITALS)
    with pytest.raises(UserError, match=r"has no problems for training, from which 2 shots could be drawn; add solved"):
        open_task(name, shots=2)


def test_a_task_that_is_named_twice_is_opened_once() -> None:
    tasks: list[Task] = open_tasks(["sum", "scramble", "sum"], limit=2)
    assert [task.name for task in tasks] == ["sum", "scramble"]
