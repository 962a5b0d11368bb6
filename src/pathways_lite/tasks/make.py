"""Make training texts and test problems of a family; the same seed gives the same bytes on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pathways_lite.atomic_file import replace_atomically, write_text_atomically
from pathways_lite.errors import UserError
from pathways_lite.run_lock import FILE_NAME as LOCK
from pathways_lite.tasks.draws import Draws, is_test_group
from pathways_lite.tasks.family import Example, Family, Request, Source
from pathways_lite.tasks.problems import PROBLEMS, problem_id, problems_digest, to_record

KIND = "pathways_lite.tasks"
DOCUMENTS, MANIFEST = "documents.jsonl", "manifest.json"  # beside `PROBLEMS`
_MOST_MISSES = 10_000  # draws without a new test problem, after which there are no more


@dataclass(frozen=True)
class Maker:
    """What one call of `make` draws from.

    Raises UserError where the family cannot give what is asked.
    """

    family: Family
    source: Source
    seed: int

    def is_test(self, example: Example) -> bool:
        """Return whether the example is for test."""
        return is_test_group(self.family.split or self.family.name, example.group, self.family.test_share)

    def documents(self, count: int, done: Callable[[int], None] = lambda _: None) -> Iterator[dict[str, Any]]:
        """Yield the training texts, in random order. A text that is no problem has the group None."""
        statements = self.source.statements()
        training = self._all_of(is_test=False)
        questions = count - len(statements) if training is None else min(count - len(statements), len(training))
        order = self.draws("order").shuffled(range(len(statements) + questions))
        for place in order:
            if place < len(statements):
                text, group = statements[place], None
            else:
                number = place - len(statements)
                draws = self.draws("documents", number)
                example = self._training_example(draws) if training is None else training[number]
                text, group = self.source.text(example, draws), example.group
            yield {"text": text, "domain": self.family.name, "group": group}
            done(1)

    def problems(self, count: int, shots: int = 0) -> Iterator[dict[str, Any]]:
        """Yield different test problems, each after `shots` solved ones for training, drawn for it.

        Fewer problems are the first ones of more.
        """
        for number, example in enumerate(self.test_examples(count)):
            yield to_record(example, self.family.name, join_shots(self.shots(number, shots)))

    def shots(self, number: int, count: int) -> tuple[Shot, ...]:
        """Return `count` solved training problems, drawn for the test problem `number`."""
        draws = self.draws("shots", number)
        examples = [self._training_example(draws) for _ in range(count)]
        return tuple(Shot(example.prompt, example.solution.rstrip()) for example in examples)

    def test_examples(self, count: int) -> Iterator[Example]:
        if (examples := self._all_of(is_test=True)) is not None:
            yield from examples[:count]
            return
        seen: set[str] = set()
        number = misses = 0
        while len(seen) < count:
            example = self.source.example(self.draws("problems", number))
            number += 1
            key = problem_id(example, self.family.name)
            if self.is_test(example) and key not in seen:
                seen.add(key)
                misses = 0
                yield example
                continue
            misses += 1
            if misses > _MOST_MISSES:
                raise UserError(
                    f"{self.family.name} has only about {len(seen)} test problems of this kind; "
                    f"ask for fewer than --problems {count}"
                )

    def _training_example(self, draws: Draws) -> Example:
        for _ in range(_MOST_MISSES):
            example = self.source.example(draws)
            if not self.is_test(example):
                return example
        raise UserError(f"{self.family.name} has no problems for training here; give more of its source")

    def _all_of(self, *, is_test: bool) -> Sequence[Example] | None:
        """Return all different examples of a split in random order; None where examples are drawn."""
        if (examples := self.source.examples()) is None:
            return None
        unique = {problem_id(example, self.family.name): example for example in examples}
        return self.draws("examples").shuffled([each for each in unique.values() if self.is_test(each) == is_test])

    def draws(self, purpose: str, number: int = 0) -> Draws:
        return Draws(f"tasks.{self.family.name}/{purpose}", self.seed, number)


class Shot(NamedTuple):
    """A solved problem that is shown before another one."""

    prompt: str
    solution: str


def join_shots(shots: Sequence[Shot]) -> str:
    """Return solved problems as they stand before another one, a blank line after each."""
    return "".join(f"{prompt}{solution}\n\n" for prompt, solution in shots)


def make(
    family: Family,
    out: Path,
    *,
    documents: int,
    problems: int,
    seed: int = 0,
    shots: int = 0,
    source: Path | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Write documents.jsonl, problems.jsonl and manifest.json into the directory `out`; return the manifest.

    Args:
      shots: number of solved training problems before each prompt.
      source: the file of a family that needs one.
      done: called with the number of newly written documents.

    Raises UserError if `out` holds something else, or the family cannot give what is asked.
    """
    arguments = {
        "family": family.name,
        "seed": seed,
        "documents": documents,
        "problems": problems,
        "shots": shots,
        "source_digest": None if source is None else problems_digest(source),
    }
    _check_place(out, arguments)
    maker = Maker(family, family.open(Request(documents=documents, seed=seed, source=source)), seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # it comes last, and says that the others are whole
    files = {
        PROBLEMS: _write_lines(out / PROBLEMS, maker.problems(problems, shots)),
        DOCUMENTS: _write_lines(out / DOCUMENTS, maker.documents(documents, done)),
    }
    manifest = {"kind": KIND, "format": 1, **arguments, "test_share": family.test_share, "files": files}
    write_text_atomically(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _check_place(out: Path, arguments: dict[str, Any]) -> None:
    """Raise UserError if the directory holds other problems, or something else."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a directory")
    manifest = out / MANIFEST
    if manifest.exists():
        try:
            present = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError:
            present = None
        if isinstance(present, dict) and present.get("kind") == KIND:
            other = {name: present.get(name) for name in arguments if present.get(name) != arguments[name]}
            if not other:
                return
            facts = ", ".join(f"{name} {value}" for name, value in other.items())
            raise UserError(f"{out} holds problems that were made with {facts}; name another directory or remove it")
    unknown = {path.name for path in out.iterdir()} if out.is_dir() else set()
    own = (DOCUMENTS, PROBLEMS, MANIFEST)
    if unknown - {*own, *(f"{name}.tmp" for name in own), LOCK}:
        raise UserError(f"{out} is not empty; name a new directory")


def _write_lines(path: Path, records: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Write records as lines of JSON; return their number and digest."""
    digest, count = hashlib.sha256(), 0
    with replace_atomically(path) as temporary, temporary.open("wb") as file:
        for record in records:
            line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            file.write(line)
            count += 1
    return {"lines": count, "sha256": digest.hexdigest()}
