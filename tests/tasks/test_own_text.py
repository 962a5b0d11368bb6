"""`cloze` and `continuation`: what is asked stands in the documents, and no document is on both sides."""

import json
from pathlib import Path

import pytest

from helpers.invented_texts import COMMON, invented_text
from pathways_lite.errors import UserError
from pathways_lite.tasks import FAMILIES, Problem, read_problems, verify
from pathways_lite.tasks.check import check_problems
from pathways_lite.tasks.make import make
from pathways_lite.tasks.own_text import WORDS
from pathways_lite.tasks.scored_items import open_task

NAMES = ("cloze", "continuation")
TEXTS = [*map(invented_text, range(150)), "short"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in [*TEXTS, TEXTS[0]]))
    return path


def made(name: str, source: Path, out: Path, **options: int) -> tuple[list[Problem], list[str]]:
    make(FAMILIES[name], out, **{"documents": 1000, "problems": 1000, **options}, source=source)
    documents = [json.loads(line)["text"] for line in (out / "documents.jsonl").read_text().splitlines()]
    return read_problems(out / "problems.jsonl"), documents


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_document_is_trained_on_or_asked_about_the_same_in_both(source: Path, tmp_path: Path) -> None:
    trained = {}
    for name in NAMES:
        for seed in (0, 1):
            problems, documents = made(name, source, tmp_path / f"{name}{seed}", seed=seed)
            test_texts = set(TEXTS) - set(documents)
            assert sorted(documents) == sorted(set(TEXTS) - test_texts)  # each once, whole, also the short one
            assert 5 <= len(test_texts) <= 30
            for problem in problems:
                assert problem.prompt is not None
                assert sum(f"{problem.prompt}{problem.solution}" in each for each in test_texts) == 1
            trained[name, seed] = sorted(documents)
            assert not check_problems(tmp_path / f"{name}{seed}").faults
    assert len({str(each) for each in trained.values()}) == 1


def test_a_long_test_document_gives_several_problems_of_one_group(name: str, source: Path, tmp_path: Path) -> None:
    problems, documents = made(name, source, tmp_path / "out")
    groups = [problem.group for problem in problems]
    assert len(set(groups)) <= len(set(TEXTS) - set(documents))
    assert max(map(groups.count, groups)) > 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_places(
    name: str, source: Path, tmp_path: Path
) -> None:
    first, second, other = (made(name, source, tmp_path / f"{i}", seed=seed)[0] for i, seed in enumerate((3, 3, 4)))
    assert first == second
    assert {problem.id for problem in first} != {problem.id for problem in other}
    fewer, _ = made(name, source, tmp_path / "fewer", seed=3, problems=4)
    assert fewer == first[:4]


def test_a_word_is_asked_for_that_its_passage_has_and_that_is_not_common(source: Path, tmp_path: Path) -> None:
    for problem in made("cloze", source, tmp_path / "out")[0]:
        assert problem.prompt is not None
        assert problem.solution is not None
        word = problem.solution.strip()
        words = problem.prompt.replace(".", "").split()
        assert word in words
        assert word not in COMMON
        assert problem.difficulty == words[::-1].index(word) + 1
        assert 60 <= len(problem.prompt) <= 300
        assert verify(problem, f" {word}, and so on").correct
        assert not verify(problem, f" {word}s").correct


def test_wrong_continuations_are_of_other_test_documents(source: Path, tmp_path: Path) -> None:
    problems, documents = made("continuation", source, tmp_path / "out")
    test_texts = set(TEXTS) - set(documents)
    for problem in problems:
        choices = (problem.model_extra or {})["choices"]
        (own,) = (each for each in test_texts if f"{problem.prompt}{problem.solution}" in each)
        assert len(set(choices)) == 4
        assert all(len(choice.split(" ")) == WORDS for choice in choices)
        for choice in set(choices) - {problem.answer}:
            assert any(choice in each for each in test_texts - {own})
    task = open_task(str(tmp_path / "out"))
    assert (task.has_choices, task.chance) == (True, 0.25)
    assert {item.right for item in task.items} == {0, 1, 2, 3}
    for item, problem in zip(task.items, problems, strict=True):
        assert item.prompt + item.answers[item.right] == f"{problem.prompt}{problem.solution}"
        assert item.group == problem.group


def test_shots_are_of_training_documents(name: str, source: Path, tmp_path: Path) -> None:
    problems, documents = made(name, source, tmp_path / "out", shots=2)
    for problem in problems:
        assert problem.prompt is not None
        *shots, _ = problem.prompt.split("\n\n")
        assert len(shots) == 2
        assert all(any(shot in each for each in documents) for shot in shots)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (['{"story": "x"}'], r'texts.jsonl:1: a document is expected, {"text": "..."}, but the line has story'),
        ([json.dumps({"text": "too short"})], "no problem can be made of its 1 document, of which 0 are for test"),
        (None, "is made of documents of yours; name a file of them: --source texts.jsonl"),
    ],
)
def test_what_cannot_be_made_is_told(name: str, lines: list[str] | None, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(lines or []))
    with pytest.raises(UserError) as error:
        make(FAMILIES[name], tmp_path / "out", documents=1, problems=1, source=None if lines is None else file)
    assert sentence in str(error.value)
    assert not (tmp_path / "out").exists()
