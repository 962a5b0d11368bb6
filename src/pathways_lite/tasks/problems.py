"""Problem files: one problem with its verifier in each line of JSON."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pathways_lite.errors import UserError, did_you_mean, similar_path, without_prefix
from pathways_lite.tasks.answers import AnyOfNames, ExactInteger, ExactText, FirstWord, GSM8KNumber
from pathways_lite.tasks.chain import Chain
from pathways_lite.tasks.code import ListProgram
from pathways_lite.tasks.family import Example
from pathways_lite.tasks.grammar import ClosedBrackets, Expression, IsoDate
from pathways_lite.tasks.gsm8k import from_gsm8k, is_gsm8k, json_lines
from pathways_lite.tasks.verdict import Verdict

PROBLEMS = "problems.jsonl"
"""The problems in a directory that `tasks make` wrote."""

AnyVerifier = Annotated[
    ExactText
    | FirstWord
    | ExactInteger
    | AnyOfNames
    | GSM8KNumber
    | Chain
    | ListProgram
    | ClosedBrackets
    | IsoDate
    | Expression,
    Field(discriminator="kind"),
]


class Problem(BaseModel):
    """One problem. Its text is `prompt`, or `messages` as chat models read them; it has an `answer` or `verify`.

    Attributes:
      domain: the family, or what the problems of a file of yours have in common.
      answer: the text that is right, where no verifier is given.
      group: variants of one problem share it; problems of a group are all for training or all for test.
      solution: a right continuation, where there is one; `tasks check` verifies it.
      stop: strings at which sampling may stop. Further fields of a file are kept.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str = Field(min_length=1)
    domain: str = ""
    prompt: str | None = None
    messages: tuple[dict[str, str], ...] | None = None
    answer: str | None = None
    solution: str | None = None
    verify: AnyVerifier | None = None
    group: str | None = None
    difficulty: int | float | str | None = None
    task: str = ""
    stop: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_complete(self) -> Problem:
        if self.prompt is None and self.messages is None:
            raise ValueError("it has neither prompt nor messages")
        if self.answer is None and self.verify is None:
            raise ValueError("it has neither answer nor verify")
        return self


def verify(problem: Problem, text: str) -> Verdict:
    """Return the verdict on a continuation of the problem's prompt. Exact, and total: never raises on any text."""
    return verifier_of(problem).judge(text)


def verifier_of(problem: Problem) -> AnyVerifier:
    """Return the verifier of a problem: its own, or that of its answer."""
    if problem.verify is not None:
        return problem.verify
    assert problem.answer is not None
    return ExactText(answer=problem.answer)


def to_record(example: Example, domain: str, shots: str = "") -> dict[str, Any]:
    """Return an example as a line of a problem file; `shots` precede the prompt, and do not change the id."""
    return {
        "id": problem_id(example, domain),
        "domain": domain,
        "prompt": shots + example.prompt,
        "solution": example.solution,
        "verify": example.verifier.model_dump(mode="json"),
        "group": example.group,
        "difficulty": example.difficulty,
        "task": example.task,
        "stop": list(example.stop),
        **example.extra,
    }


def problem_id(example: Example, domain: str) -> str:
    """Return the family and 16 hexadecimal digits of a digest of the prompt."""
    return f"{domain}-{hashlib.sha256(example.prompt.encode()).hexdigest()[:16]}"


def problem_file(path: Path) -> Path:
    """Return the file of problems at `path`, which may be the directory that `tasks make` wrote.

    Raises UserError where there is none.
    """
    file = path / PROBLEMS if path.is_dir() else path
    if file.is_file():
        return file
    advice = "`pathways-lite tasks make` writes one"
    if not path.is_dir():
        raise UserError(f"there is no file of problems {path}; {advice}{similar_path(path)}")
    below = next((str(other.parent) for other in sorted(path.glob(f"*/{PROBLEMS}"))), None)
    hint = f".{did_you_mean(path.name, (), meant=below)}" if below else ""
    raise UserError(f"there is no {PROBLEMS} in {path}; {advice}{hint}")


def read_problems(path: Path | str) -> list[Problem]:
    """Return the problems of a file in order; lines in GSM8K's own form are fine, and gzip by the suffix `.gz`.

    Raises UserError, with the line, for what is no problem, for ids that are not unique, and for an empty file.
    """
    path = Path(path)
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for where, record in json_lines(path):
        if "prompt" not in record and "messages" not in record and is_gsm8k(record):
            example = from_gsm8k(record, where)
            record = to_record(example, "gsm8k") | ({"id": record["id"]} if "id" in record else {})
        try:
            problem = Problem.model_validate(record)
        except ValidationError as error:
            raise UserError(f"{where}: {_sentence(error)}") from error
        if problem.id in seen:
            raise UserError(f"{where}: the id {problem.id!r} is that of {seen[problem.id]} too; ids must be unique")
        seen[problem.id] = where
        problems.append(problem)
    if not problems:
        raise UserError(f"{path} has no problems")
    return problems


def problems_digest(path: Path | str) -> str:
    """Return the SHA-256 of a problem file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sentence(error: ValidationError) -> str:
    """Return the first mistake of a record in one sentence."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = without_prefix(first["msg"])
    return f"{place}: {message}" if place else message
