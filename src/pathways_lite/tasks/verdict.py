"""What a verifier says about a text, and the base of verifiers: exact, and total over all texts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

INTEGER = re.compile(r"-?[0-9]{1,64}")
"""Integers that verifiers read. Longer ones are no answer of any family, and Python refuses to convert 4,301 digits."""


@dataclass(frozen=True)
class Verdict:
    """What a verifier says about one text.

    Attributes:
      correct: the answer is right.
      answer: the answer in its normal form, by which equal answers are counted (majority); None: none was found.
      weak: what the weak verifier of the family says (visible tests, form of the answer); None: there is none.
      steps: for solutions in steps, whether each written step is right, in order; wrong ones that were taken back too.
      reason: why it is not correct, in a few words; empty if it is.
    """

    correct: bool
    answer: str | None = None
    weak: bool | None = None
    steps: tuple[bool, ...] = ()
    reason: str = ""


class Verifier(BaseModel):
    """What is needed to verify answers to one problem; `kind` names the rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def judge(self, text: str) -> Verdict:
        """Return the verdict on a continuation of the prompt. Never raises, whatever the text."""
        raise NotImplementedError


def first_line(text: str) -> str:
    """Return the first line of a continuation, without spaces around it: the answer, where it is one line.

    Only a newline ends it; a model that goes on with the next question is judged by its first answer.
    """
    return text.partition("\n")[0].strip()


def compare(answer: str | None, expected: str, weak: bool | None = None) -> Verdict:
    """Return the verdict on an answer in its normal form, of which there is one right one."""
    if answer is None:
        return Verdict(correct=False, weak=weak, reason="no answer in the expected form")
    correct = answer == expected
    return Verdict(correct, answer, weak, reason="" if correct else "another answer")
