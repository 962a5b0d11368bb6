"""Tasks as they are scored: items with their shots, and the answers whose probabilities count.

A task is a family (`sum`, `arithmetic:2D+`, `facts:choices`), a problem file, or a directory that `tasks make` wrote.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pathways_lite.errors import UserError, counted, did_you_mean
from pathways_lite.tasks.choices import draw_choices
from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Example, Family, Request, Source
from pathways_lite.tasks.make import KIND, MANIFEST, Maker, Shot, join_shots
from pathways_lite.tasks.problems import (
    PROBLEMS,
    Problem,
    problem_file,
    problem_id,
    problems_digest,
    read_problems,
    verifier_of,
)
from pathways_lite.tasks.registry import FAMILIES
from pathways_lite.tasks.verdict import Verifier

Normalization = Literal["sum", "token", "unconditional"]
"""How the scores of choices are compared: ln p; ln p per token; ln p less that after "Answer:" alone."""

CHOICES = "choices"
DOCUMENTS = 60_000  # of a world of facts, as `tasks make` has by default
ITEMS = 256  # of a family, as `tasks make` has by default
_SUFFIXES = (".jsonl", ".json", ".gz")


@dataclass(frozen=True)
class Item:
    """A problem as it is scored.

    Attributes:
      question: what is asked; empty where there are only `messages`, which a chat asks.
      answers: continuations of the prompt whose probabilities count: the choices, or the right solution alone.
      right: the place of the right one.
      verifier: judges what the model writes; None for choices, which are not written.
      group: variants of one problem share it; they are not independent.
      shots: solved problems that stand before it.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    right: int
    verifier: Verifier | None
    stop: tuple[str, ...]
    group: str
    shots: tuple[Shot, ...] = ()
    messages: tuple[Mapping[str, str], ...] | None = None

    @property
    def prompt(self) -> str:
        """What a model reads that continues texts, shots included."""
        return join_shots(self.shots) + self.question

    @property
    def solution(self) -> str:
        return self.answers[self.right]


@dataclass(frozen=True)
class Task:
    """Items that are scored in one way. `shots`: solved training problems before each."""

    name: str
    items: tuple[Item, ...]
    shots: int
    normalization: Normalization = "token"

    @property
    def has_choices(self) -> bool:
        return self.items[0].verifier is None

    @property
    def chance(self) -> float:
        """The expected accuracy of a guess; 0 where an answer is written."""
        return sum(1 / len(item.answers) for item in self.items) / len(self.items) if self.has_choices else 0.0

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of what is asked, its first 12 digits: results with different ones are not comparable."""
        sha = hashlib.sha256(self.normalization.encode())
        for item in self.items:
            judged = "" if item.verifier is None else item.verifier.model_dump_json()
            sha.update(json.dumps([item.id, item.prompt, item.answers, item.right, judged, item.stop]).encode())
        return f"sha256-{sha.hexdigest()[:12]}"


def open_tasks(
    names: Sequence[str], *, shots: int = 0, limit: int | None = None, seed: int = 0, chat: bool = False
) -> list[Task]:
    """Open several tasks, each once; see `open_task`."""
    return [open_task(name, shots=shots, limit=limit, seed=seed, chat=chat) for name in dict.fromkeys(names)]


def is_file_name(name: str) -> bool:
    """Return whether a task is named by the path of a file or directory."""
    return name not in FAMILIES and ("/" in name or name.endswith(_SUFFIXES) or Path(name).exists())


def is_task_name(name: str) -> bool:
    """Return whether a name is that of a family, or of a part of it, or a path."""
    return is_file_name(name) or name.partition(":")[0] in FAMILIES


def open_task(name: str, *, shots: int = 0, limit: int | None = None, seed: int = 0, chat: bool = False) -> Task:
    """Open a task by its name: FAMILY[:TASK][:choices], or the path of a problem file.

    Args:
      shots: number of solved problems for training before each item, drawn for it, as in GPT-3; never the item.
      limit: number of items, the first ones; None: 256 of a family, all of a file.
      seed: of a family's problems, and of the shots.
      chat: for a chat: problems may have messages and no prompt, and answers have no white space around them.

    Raises UserError for an unknown name, a task without items, or one that cannot give the shots.
    """
    if is_file_name(name):
        return _of_file(name, Path(name), shots, limit, seed, chat=chat)
    family_name, *parts = name.split(":")
    if family_name not in FAMILIES:
        known = [family for family in FAMILIES if not FAMILIES[family].needs_source]
        raise UserError(f"there is no task {name!r}.{did_you_mean(family_name, known)}; a file is named by its path")
    family = FAMILIES[family_name]
    if family.needs_source:
        raise UserError(f"{name} comes without data; name a file of it by its path, e.g. --tasks data/{name}.jsonl")
    source = family.open(Request(documents=DOCUMENTS, seed=seed))
    has_choices = CHOICES in parts
    if kinds := [part for part in parts if part != CHOICES]:
        source = _OfTask(source, ":".join(kinds), name)
    maker = Maker(family, source, seed)
    items = []
    for number, example in enumerate(maker.test_examples(limit or ITEMS)):
        item = _item_of_example(example, maker, number, shots, name, has_choices=has_choices)
        items.append(_for_chat(item) if chat else item)
    return Task(name, tuple(items), shots)


@dataclass(frozen=True)
class _OfTask:
    """The examples of one `task` inside a family. Raises UserError where there are none."""

    source: Source
    task: str
    name: str

    def examples(self) -> list[Example] | None:
        examples = self.source.examples()
        return None if examples is None else [example for example in examples if example.task == self.task]

    def example(self, draws: Draws) -> Example:
        seen: set[str] = set()
        for _ in range(10_000):
            example = self.source.example(draws)
            if example.task == self.task:
                return example
            seen.add(example.task)
        known = sorted(filter(None, seen)) or ["no parts"]
        raise UserError(f"there is no task {self.name!r}.{did_you_mean(self.task, known)}")

    def text(self, example: Example, draws: Draws) -> str:
        return self.source.text(example, draws)

    def statements(self) -> list[str]:
        return self.source.statements()


def _item_of_example(example: Example, maker: Maker, number: int, shots: int, name: str, *, has_choices: bool) -> Item:
    answers: tuple[str, ...] = (example.solution,)
    right = 0
    if has_choices:
        try:
            answers, right = draw_choices(example, maker.source, maker.draws("choices", number))
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        answers = tuple(answer.rstrip() for answer in answers)
    return Item(
        problem_id(example, maker.family.name), example.prompt, answers, right,
        None if has_choices else example.verifier, example.stop, example.group, maker.shots(number, shots),
    )  # fmt: skip


def _for_chat(item: Item) -> Item:
    return replace(item, answers=tuple(answer.strip() for answer in item.answers))


# ---- files ----


def _of_file(name: str, path: Path, shots: int, limit: int | None, seed: int, *, chat: bool) -> Task:
    path = problem_file(path)
    problems = read_problems(path)
    training = [problem for problem in problems if _field(problem, "split") == "train"]
    asked = [problem for problem in problems if _field(problem, "split") != "train"][:limit]
    if not asked:
        raise UserError(f'{path}: all problems have "split": "train", so none is left to be asked')
    with_choices = [problem for problem in asked if _field(problem, "choices") is not None]
    if with_choices and len(with_choices) < len(asked):
        other = next(problem for problem in asked if _field(problem, "choices") is None)
        raise UserError(
            f"{path}: {with_choices[0].id!r} has choices and {other.id!r} has none; put them into files of their own"
        )
    maker = _maker_of(path, shots) if shots and not training else None
    items = []
    for number, problem in enumerate(asked):
        if maker is not None:
            before = maker.shots(number, shots)
        else:
            before = tuple(map(_solved, _draw_shots(path, problem, training, shots, seed, number)))
        item = _item_of_problem(problem, before, chat=chat)
        items.append(_for_chat(item) if chat else item)
    return Task(name, tuple(items), shots, _normalization(path, asked))


def _maker_of(path: Path, shots: int) -> Maker:
    """Return what made a file's problems, to draw shots from. Raises UserError where nothing tells."""
    instead = 'add solved ones with "split": "train", or leave --shots out'
    manifest = path.with_name(MANIFEST)
    content = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    if content.get("kind") != KIND or content["files"][PROBLEMS]["sha256"] != problems_digest(path):
        raise UserError(
            f"{path} has no problems for training, from which {counted(shots, 'shot')} could be drawn; {instead}"
        )
    if content["shots"]:
        raise UserError(
            f"{path} was made with {counted(content['shots'], 'shot')} before each prompt; leave --shots out"
        )
    family: Family = FAMILIES[content["family"]]
    if family.needs_source:
        raise UserError(
            f"{path}: make it with its shots: pathways-lite tasks make {family.name} OUT --source FILE --shots {shots}"
        )
    seed = content["seed"]
    return Maker(family, family.open(Request(documents=content["documents"], seed=seed)), seed)


def _draw_shots(
    path: Path, problem: Problem, training: Sequence[Problem], shots: int, seed: int, number: int
) -> list[Problem]:
    """Draw different problems for training, none of which is the item or a variant of it."""
    others = [
        each
        for each in training
        if each.prompt != problem.prompt and (problem.group is None or each.group != problem.group)
    ]
    if len(others) < shots:
        raise UserError(
            f"{path} has {counted(len(others), 'problem')} for training beside {problem.id!r}, so --shots {shots} is "
            "too many"
        )
    return Draws("tasks.shots", seed, number).shuffled(others)[:shots] if shots else []


def _item_of_problem(problem: Problem, shots: tuple[Shot, ...], *, chat: bool) -> Item:
    messages = problem.messages if chat else None
    prompt, choices = "" if messages and problem.prompt is None else _prompt(problem), _choices(problem)
    answers = tuple(_joined(prompt, choice) for choice in choices) or (_joined(prompt, _solution(problem)),)
    return Item(
        problem.id, prompt, answers, _right(problem, choices) if choices else 0,
        None if choices else verifier_of(problem), problem.stop or (("\n",) if problem.verify is None else ()),
        problem.group or problem.id, shots, messages,
    )  # fmt: skip


def _solved(problem: Problem) -> Shot:
    """Return a problem with its right answer, as a shot."""
    prompt, choices = _prompt(problem), _choices(problem)
    solution = choices[_right(problem, choices)] if choices else _solution(problem)
    return Shot(prompt, _joined(prompt, solution).rstrip())


def _prompt(problem: Problem) -> str:
    if problem.prompt is None:
        raise UserError(
            f"problem {problem.id!r} has messages and no prompt; write its text as `prompt`, or ask an instruct model "
            "with --apply-chat-template"
        )
    return problem.prompt


def _solution(problem: Problem) -> str:
    solution = problem.solution if problem.solution is not None else problem.answer
    if not solution:
        raise UserError(f"problem {problem.id!r} has no solution or answer, whose probability could be scored")
    return solution


def _choices(problem: Problem) -> tuple[str, ...]:
    """Return the choices of a problem; () where it has none. Raises UserError for what are no choices."""
    choices = _field(problem, CHOICES)
    if choices is None:
        return ()
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise UserError(f"problem {problem.id!r}: choices are texts, none of them empty, not {choices!r:.200}")
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise UserError(f"problem {problem.id!r}: two or more different choices are needed, not {choices!r:.200}")
    return tuple(choices)


def _right(problem: Problem, choices: Sequence[str]) -> int:
    answer = (problem.answer or "").strip()
    places = [place for place, choice in enumerate(choices) if choice.strip() == answer]
    if len(places) != 1:
        raise UserError(f"problem {problem.id!r}: its answer {problem.answer!r:.100} is not one of its choices")
    return places[0]


def _joined(prompt: str, answer: str) -> str:
    """Return an answer as a continuation: after a space, unless there is white space already, or nothing before."""
    return answer if not prompt or prompt[-1].isspace() or answer[0].isspace() else f" {answer}"


def _normalization(path: Path, problems: Sequence[Problem]) -> Normalization:
    named = {_field(problem, "normalization") for problem in problems} - {None}
    if unknown := named - set(get_args(Normalization)):
        name = str(next(iter(unknown)))
        raise UserError(f"{path}: there is no normalization {name!r}.{did_you_mean(name, get_args(Normalization))}")
    if len(named) > 1:
        raise UserError(f"{path}: its problems have different normalizations; put them into files of their own")
    return named.pop() if named else "token"


def _field(problem: Problem, name: str) -> Any:
    """Return a further field of a problem's record; None where it has none."""
    return (problem.model_extra or {}).get(name)
