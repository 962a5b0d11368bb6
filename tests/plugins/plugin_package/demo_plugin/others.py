"""Plugins that commands name: a tracker, a source of documents, a law, a family of problems."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathways_lite.data import SourcePlugin
from pathways_lite.data.documents import Document
from pathways_lite.scaling.law import Law, Parameter, power
from pathways_lite.scaling.losses import LeastSquares
from pathways_lite.tasks.answers import ExactInteger
from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Drawn, Example, Family


class Lines:
    """A tracker that writes the kinds and steps of rows into a file."""

    def __init__(self, stage_dir: Path, *, run: str, step: int = 0) -> None:
        stage_dir.mkdir(parents=True, exist_ok=True)
        self._file = (stage_dir / "demo_lines.jsonl").open("a")

    def row(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"kind": row["kind"], "step": row["step"]}) + "\n")

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Chunk:
    """The documents first .. stop - 1."""

    first: int
    stop: int
    domain: str
    size: int = 1000
    input_bytes: int = 0

    def read(self) -> Iterator[Document]:
        for number in range(self.first, self.stop):
            yield Document(f"number/{number}", self.domain, str(number), f"{number} is after {number - 1}. " * 5)


@dataclass(frozen=True)
class Numbers(SourcePlugin):
    """`demo:COUNT`: documents about numbers."""

    def chunks(self) -> Iterator[Chunk]:
        count = int(self.address.partition(":")[2])
        for first in range(0, count, 50):
            yield Chunk(first, min(count, first + 50), self.fields.domain or "numbers")


ROOT = Law(
    name="demo-root",
    title="Square root",
    source="an example",
    formula="y = a x^0.5",
    inputs=("x",),
    target="y",
    parameters=(Parameter("a", (0.3, 3.0), in_target_units=True),),
    predict=lambda v, x: v["a"] * power(x["x"], 0.5),
    loss=LeastSquares(),
    published=(("an example", (2.0,)),),
)


def double(draws: Draws) -> Example:
    """Draw a number to double."""
    number = draws.below(1000)
    return Example(
        prompt=f"Q: twice {number}?\nA:",
        solution=f" {2 * number}\n",
        verifier=ExactInteger(answer=2 * number),
        group=str(number),
        difficulty=len(str(number)),
        answer_kind="integer",
    )


DOUBLE = Family("demo_double", "numbers to double", 0.1, lambda _: Drawn(double))
