"""The family `gsm8k`: problems of a file in GSM8K's own form (arXiv 2110.14168), none of which is shipped."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathways_lite.errors import UserError
from pathways_lite.tasks.answers import GSM8KNumber, gsm8k_number
from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Example, Family, Request, Source

_EQUATION = re.compile(r"<<[^<>]*>>")


def is_gsm8k(record: Mapping[str, Any]) -> bool:
    """Return whether a record is in GSM8K's form: a question, and an answer that ends in `#### N`."""
    return isinstance(record.get("question"), str) and "####" in str(record.get("answer"))


def from_gsm8k(record: Mapping[str, Any], where: str) -> Example:
    """Return the example of a record in GSM8K's form. Raises UserError if no number follows `####`."""
    question, solution = record["question"].strip(), record["answer"].strip()
    if gsm8k_number(solution) is None:
        raise UserError(f"{where}: no number follows #### in the answer; GSM8K's answers end in e.g. `#### 18`")
    return Example(
        prompt=f"Question: {question}\nAnswer:",
        solution=f" {solution}\n",
        verifier=GSM8KNumber(answer=solution.partition("####")[2].split("\n")[0].strip()),
        group=re.sub(r"[0-9]+", "0", " ".join(question.lower().split())),  # other numbers make a variant
        difficulty=max(1, len(_EQUATION.findall(solution))),
        stop=("Question:",),
    )


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where a line stands and its record, of a file of JSON lines that may be compressed by gzip.

    Raises UserError for a line that is no JSON object, or a damaged file.
    """
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{where}: not JSON ({error}); one JSON object is expected in each line") from error
                if not isinstance(record, dict):
                    raise UserError(f"{where}: a JSON object is expected, not {type(record).__name__}")
                yield where, record
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged after line {number} ({error}); JSON lines in UTF-8 are expected") from error


@dataclass(frozen=True)
class _File:
    content: tuple[Example, ...]

    def examples(self) -> Sequence[Example]:
        return self.content

    def example(self, draws: Draws) -> Example:
        return draws.choice(self.content)

    def text(self, example: Example, draws: Draws) -> str:
        return example.prompt + example.solution

    def statements(self) -> list[str]:
        return []


def _open(request: Request) -> Source:
    if request.source is None:
        raise UserError("gsm8k comes without data; name a file of GSM8K with --source, e.g. --source train.jsonl")
    examples = []
    for where, record in json_lines(request.source):
        if not is_gsm8k(record):
            raise UserError(f'{where}: not in GSM8K\'s form, {{"question": ..., "answer": "... #### N"}}')
        examples.append(from_gsm8k(record, where))
    if not examples:
        raise UserError(f"{request.source} has no problems")
    return _File(tuple(examples))


GSM8K = Family("gsm8k", "problems of a file of GSM8K (--source)", 0.1, _open, needs_source=True)
