"""The family `chain`: sums modulo 100 in steps, every one of which is verified."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Drawn, Example, Family
from pathways_lite.tasks.verdict import INTEGER, Verdict, Verifier

MODULUS = 100
MISTAKES = 0.1  # share of training texts with a wrong step that is taken back
_FINAL = re.compile(r"= *([0-9]{1,64})")
_MOST_LINES = 1000


class Chain(Verifier):
    """The line `= N` says the result, which alone decides `correct`; each line before it is a step.

    A step is right if it is the next step of the problem, and all that stand before it are right: the exact process
    reward of the text up to there, also of a text that is not finished. `wait` takes the step before it back.
    """

    kind: Literal["chain"] = "chain"
    numbers: tuple[int, ...] = Field(min_length=2)
    signs: str = Field(pattern=r"^[+-]+$")

    @model_validator(mode="after")
    def _fit(self) -> Chain:
        if len(self.signs) != len(self.numbers) - 1:
            raise ValueError(f"{len(self.numbers)} numbers need {len(self.numbers) - 1} signs, not {len(self.signs)}")
        return self

    def judge(self, text: str) -> Verdict:
        expected = steps(self.numbers, self.signs)
        final = expected[-1].rpartition("=")[2]
        written: list[bool] = []
        standing: list[bool] = []
        for line in text.split("\n", _MOST_LINES)[:_MOST_LINES]:
            line = line.strip()
            if match := _FINAL.fullmatch(line):
                answer = str(int(match[1]))
                correct = answer == final
                reason = "" if correct else "another answer"
                return Verdict(correct, answer, steps=tuple(written), reason=reason)
            if line == "wait":
                del standing[-1:]
            elif line:
                is_right = all(standing) and len(standing) < len(expected) and line == expected[len(standing)]
                written.append(is_right)
                standing.append(is_right)
        return Verdict(correct=False, steps=tuple(written), reason="no line `= N`")


def steps(numbers: tuple[int, ...], signs: str) -> list[str]:
    """Return the right steps, e.g. `7+25=32`, from left to right, each modulo 100."""
    lines, value = [], numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        result = (value + number if sign == "+" else value - number) % MODULUS
        lines.append(f"{value}{sign}{number}={result}")
        value = result
    return lines


def draw_chain(draws: Draws) -> Example:
    """Draw a chain of 2 to 8 steps."""
    count = draws.between(2, 8)
    numbers = tuple(draws.below(MODULUS) for _ in range(count + 1))
    signs = "".join(draws.choice("+-") for _ in range(count))
    lines = steps(numbers, signs)
    terms = [f"+{numbers[0]}", *(sign + str(number) for sign, number in zip(signs, numbers[1:], strict=True))]
    return Example(
        prompt=f"Q: {numbers[0]}{''.join(terms[1:])} (mod {MODULUS})\n",
        solution="\n".join(lines) + f"\n= {lines[-1].rpartition('=')[2]}\n",
        verifier=Chain(numbers=numbers, signs=signs),
        group="".join(sorted(terms)),  # the order of terms does not count
        difficulty=count,
        stop=("Q:",),
    )


def write_chain(example: Example, draws: Draws) -> str:
    """Return the solution, in 10 % of texts with a wrong step, then `wait` and the step again, right."""
    lines = example.solution.splitlines()
    if draws.chance(MISTAKES):
        place = draws.below(len(lines) - 1)
        left, _, right = lines[place].rpartition("=")
        assert INTEGER.fullmatch(right)
        wrong = (int(right) + draws.between(1, MODULUS - 1)) % MODULUS
        lines[place:place] = [f"{left}={wrong}", "wait"]
    return example.prompt + "\n".join(lines) + "\n"


CHAIN = Family(
    "chain",
    "sums of 3 to 9 numbers modulo 100, step by step",
    0.1,
    lambda _: Drawn(draw_chain, write_chain),
)
