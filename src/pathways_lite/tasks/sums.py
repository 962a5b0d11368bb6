"""Families of arithmetic: `sum`, and GPT-3's ten synthetic tasks (Brown et al. 2020, §3.9.1)."""

from __future__ import annotations

from pathways_lite.tasks.answers import ExactInteger
from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Drawn, Example, Family


def draw_sum(draws: Draws) -> Example:
    """Draw a sum or difference of two numbers with 1 to 4 digits each."""
    digits = draws.between(1, 4)
    other_digits = draws.between(1, digits)
    a, b = (draws.between(10 ** (n - 1) - (n == 1), 10**n - 1) for n in draws.shuffled([digits, other_digits]))
    sign = draws.choice("+-")
    answer = a + b if sign == "+" else a - b
    return Example(
        prompt=f"Q: {a}{sign}{b}=\nA:",
        solution=f" {answer}\n",
        verifier=ExactInteger(answer=answer),
        group=_pair(a, sign, b),
        difficulty=digits,
        task="addition" if sign == "+" else "subtraction",
        answer_kind="integer",
    )


_TWO_OPERANDS = {
    **{f"{digits}D+": (digits, "plus", "+") for digits in (2, 3, 4, 5)},
    **{f"{digits}D-": (digits, "minus", "-") for digits in (2, 3, 4, 5)},
    "2Dx": (2, "times", "*"),
}
ARITHMETIC_TASKS = (*_TWO_OPERANDS, "1DC")
"""The paper's names: digits and operation; 1DC: two operations on three one-digit numbers."""


def draw_arithmetic(draws: Draws) -> Example:
    """Draw one of GPT-3's arithmetic problems; operands are uniform in [0, 10**digits)."""
    task = draws.choice(ARITHMETIC_TASKS)
    if task == "1DC":
        a, b, c = (draws.below(10) for _ in range(3))
        first, second = draws.choice("+-*"), draws.choice("+-*")
        question, digits = f"{a}{first}({b}{second}{c})", 1
        answer = _apply(a, first, _apply(b, second, c))
        group = f"{a}{first}({_pair(b, second, c)})"
    else:
        digits, word, sign = _TWO_OPERANDS[task]
        a, b = draws.below(10**digits), draws.below(10**digits)
        question, answer, group = f"{a} {word} {b}", _apply(a, sign, b), _pair(a, sign, b)
    return Example(
        prompt=f"Q: What is {question}?\nA:",
        solution=f" {answer}\n",
        verifier=ExactInteger(answer=answer),
        group=group,
        difficulty=digits,
        task=task,
        answer_kind="integer",
    )


def _apply(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def _pair(a: int, sign: str, b: int) -> str:
    """Return the group of two operands: their order does not count, as in 3+4 and 4+3, or in 7-2 and 2-7."""
    return f"{min(a, b)}{sign}{max(a, b)}"


SUM = Family("sum", "sums and differences of numbers with 1 to 4 digits", 0.1, lambda _: Drawn(draw_sum))
ARITHMETIC = Family(
    "arithmetic", "GPT-3's arithmetic: 2 to 5 digits, products, three operands", 0.1, lambda _: Drawn(draw_arithmetic)
)
