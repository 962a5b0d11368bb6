"""What a family of problems consists of: examples from random draws, training texts, and a share of test groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.verdict import Verifier


@dataclass(frozen=True)
class Example:
    """A problem with a right solution.

    Attributes:
      prompt: what the model reads.
      solution: a continuation of the prompt that is right.
      verifier: judges other continuations.
      group: the same for variants of one problem, which are then all in training or all in test.
      difficulty: larger is harder; its unit is the family's.
      task: the kind of problem inside the family, e.g. `2D+`.
      stop: strings at which sampling may stop.
      extra: further fields of the problem's record.
      answer_kind: solutions of one kind may stand beside each other as choices; empty: there are no choices.
    """

    prompt: str
    solution: str
    verifier: Verifier
    group: str
    difficulty: int
    task: str = ""
    stop: tuple[str, ...] = ("\n",)
    extra: Mapping[str, Any] = field(default_factory=dict)
    answer_kind: str = ""


class Source(Protocol):
    """Where the examples and texts of one call of `tasks make` come from."""

    def examples(self) -> Sequence[Example] | None:
        """Return all there are; None where they are drawn."""
        ...

    def example(self, draws: Draws) -> Example:
        """Draw a problem of either split."""
        ...

    def text(self, example: Example, draws: Draws) -> str:
        """Return a training text of a problem."""
        ...

    def statements(self) -> list[str]:
        """Return the training texts that are no problems; together with problems they make the documents."""
        ...


@dataclass(frozen=True)
class Drawn:
    """A source of examples that depend on nothing but the draws."""

    draw: Callable[[Draws], Example]
    write: Callable[[Example, Draws], str] | None = None

    def examples(self) -> None:
        return None

    def example(self, draws: Draws) -> Example:
        return self.draw(draws)

    def text(self, example: Example, draws: Draws) -> str:
        return self.write(example, draws) if self.write else example.prompt + example.solution

    def statements(self) -> list[str]:
        return []


@dataclass(frozen=True)
class Request:
    """What a user asked of a family."""

    documents: int
    seed: int = 0
    source: Path | None = None


@dataclass(frozen=True)
class Family:
    """A family of problems.

    Attributes:
      summary: what it is, for `tasks list`.
      test_share: the share of groups that is kept for test problems.
      open: returns the source of its examples.
      needs_source: examples come from a file of the user.
      split: what chooses test groups; families of the same one agree on them. Empty: the family's name.
    """

    name: str
    summary: str
    test_share: float
    open: Callable[[Request], Source]
    needs_source: bool = False
    split: str = ""
