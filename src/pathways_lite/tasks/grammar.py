"""The family `grammar`: closing brackets, ISO dates, and expressions of a context-free grammar with a given value."""

from __future__ import annotations

import calendar
import re
from typing import Literal

from pydantic import Field

from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Drawn, Example, Family
from pathways_lite.tasks.verdict import Verdict, Verifier, compare, first_line

PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}
_ISO_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_LONGEST = 200  # characters of an answer; longer ones are wrong


class ClosedBrackets(Verifier):
    """The opened brackets and the first line together are balanced; `weak`: the line has brackets only."""

    kind: Literal["brackets"] = "brackets"
    opened: str = Field(max_length=_LONGEST)

    def judge(self, text: str) -> Verdict:
        answer = first_line(text)
        if not answer or len(answer) > _LONGEST or set(answer) - set("()[]{}<>"):
            return Verdict(correct=False, weak=False, reason="no answer in the expected form")
        correct = missing_brackets(self.opened + answer) == ""
        return Verdict(correct, answer, weak=True, reason="" if correct else "not balanced")


class IsoDate(Verifier):
    """The first line is the date; `weak`: it is some day of the calendar in the form YYYY-MM-DD."""

    kind: Literal["date"] = "date"
    answer: str = Field(pattern=f"^{_ISO_DATE.pattern}$")

    def judge(self, text: str) -> Verdict:
        line = first_line(text)
        is_date = _is_date(line)
        return compare(line if is_date else None, self.answer, weak=is_date)


class Expression(Verifier):
    """The first line is a sentence of `E → T | E+T | E-T, T → F | T*F, F → digit | (E)` with the value and digits.

    `weak`: it is a sentence of the grammar.
    """

    kind: Literal["expression"] = "expression"
    value: int
    digits: int = Field(ge=1)

    def judge(self, text: str) -> Verdict:
        answer = first_line(text)
        value = None if len(answer) > _LONGEST else expression_value(answer)
        if value is None:
            return Verdict(correct=False, weak=False, reason="not an expression of the grammar")
        digits = sum(character.isdigit() for character in answer)
        correct = value == self.value and digits == self.digits
        reason = "" if correct else f"{digits} digits, value {value}"
        return Verdict(correct, answer, weak=True, reason=reason)


def missing_brackets(text: str) -> str | None:
    """Return what closes the brackets of `text`, None if a bracket in it closes nothing."""
    missing: list[str] = []
    for character in text:
        if character in PAIRS:
            missing.append(PAIRS[character])
        elif not missing or missing.pop() != character:
            return None
    return "".join(reversed(missing))


def expression_value(text: str) -> int | None:
    """Return the value of a sentence of the grammar, None if the text is no sentence. Without recursion or `eval`."""
    values: list[int] = []
    operators: list[str] = []

    def reduce(rank: int) -> None:
        while operators and operators[-1] != "(" and _RANK[operators[-1]] >= rank:
            right, left = values.pop(), values.pop()
            operator = operators.pop()
            values.append(left + right if operator == "+" else left - right if operator == "-" else left * right)

    expects_operand = True
    for character in text:
        if character in "0123456789" and expects_operand:
            values.append(int(character))
            expects_operand = False
        elif character == "(" and expects_operand:
            operators.append(character)
        elif character in _RANK and not expects_operand:
            reduce(_RANK[character])
            operators.append(character)
            expects_operand = True
        elif character == ")" and not expects_operand:
            reduce(0)
            if not operators:
                return None
            operators.pop()
        else:
            return None
    if expects_operand:
        return None
    reduce(0)
    return None if operators else values[0]


_RANK = {"+": 1, "-": 1, "*": 2}


def _is_date(text: str) -> bool:
    match = _ISO_DATE.fullmatch(text)
    if not match:
        return False
    year, month, day = map(int, match.groups())
    return year >= 1 and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]


# ---- drawing ----

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def draw_grammar(draws: Draws) -> Example:
    """Draw one of the three kinds of problem."""
    return draws.choice((_draw_brackets, _draw_date, _draw_expression))(draws)


def _draw_brackets(draws: Draws) -> Example:
    length = draws.between(3, 12)
    text, open_ones = "", ""
    while len(text) < length or not open_ones:
        if open_ones and draws.chance(0.4):
            text += PAIRS[open_ones[-1]]
            open_ones = open_ones[:-1]
        else:
            open_ones += draws.choice(tuple(PAIRS))
            text += open_ones[-1]
    closing = missing_brackets(text)
    return Example(
        prompt=f"Q: close {text}\nA:",
        solution=f" {closing}\n",
        verifier=ClosedBrackets(opened=text),
        group=f"brackets {_with_kinds_in_order(text)}",
        difficulty=len(open_ones),
        task="brackets",
    )


def _with_kinds_in_order(text: str) -> str:
    """Return the brackets with the kinds renamed by when they first appear: `[(` and `{<` are variants."""
    names: dict[str, str] = {}
    pairs = iter(PAIRS.items())
    for character in text:
        if character in PAIRS and character not in names:
            opening, closing = next(pairs)
            names[character], names[PAIRS[character]] = opening, closing
    return "".join(names[character] for character in text)


def _draw_date(draws: Draws) -> Example:
    year, month = draws.between(1500, 2499), draws.between(1, 12)
    day = draws.between(1, calendar.monthrange(year, month)[1])
    written = draws.choice((f"{day} {_MONTHS[month - 1]} {year}", f"{_MONTHS[month - 1]} {day}, {year}"))
    date = f"{year}-{month:02}-{day:02}"
    return Example(
        prompt=f"Q: date {written}\nA:",
        solution=f" {date}\n",
        verifier=IsoDate(answer=date),
        group=f"date {date}",
        difficulty=1,
        task="date",
    )


def _draw_expression(draws: Draws) -> Example:
    digits = draws.between(2, 5)
    text = _sentence(digits, draws)
    value = expression_value(text)
    assert value is not None
    return Example(
        prompt=f"Q: {digits} digits with value {value}\nA:",
        solution=f" {text}\n",
        verifier=Expression(value=value, digits=digits),
        group=f"expression {digits} {value}",
        difficulty=digits,
        task="expression",
    )


def _sentence(digits: int, draws: Draws) -> str:
    """Draw a sentence of the grammar with so many digits; operands of products that are sums get parentheses."""
    if digits == 1:
        return str(draws.below(10))
    left = draws.between(1, digits - 1)
    operator = draws.choice("+-*")
    first, second = _sentence(left, draws), _sentence(digits - left, draws)
    if len(first) > 1 and operator == "*":
        first = f"({first})"
    if len(second) > 1 and operator != "+":
        second = f"({second})"
    return first + operator + second


GRAMMAR = Family("grammar", "closing brackets, ISO dates, expressions of a grammar", 0.1, lambda _: Drawn(draw_grammar))
