"""The family `code`: write the composition of list operations that a docstring describes; judged by tests."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Drawn, Example, Family
from pathways_lite.tasks.list_expressions import OPERATIONS, ExpressionError, evaluate, parse
from pathways_lite.tasks.verdict import Verdict, Verifier

HIDDEN_TESTS = 30
_MOST_LINES = 100

Test = tuple[tuple[int, ...], tuple[int, ...]]
"""An input, and the output that is expected."""


class ListProgram(Verifier):
    """The expression after the first `return` gives the expected output for every hidden test.

    Before it only comments and empty lines may stand. `weak`: it passes the visible tests, which a model may be shown.
    """

    kind: Literal["list_program"] = "list_program"
    visible: tuple[Test, ...]
    hidden: tuple[Test, ...] = Field(min_length=1)

    def judge(self, text: str) -> Verdict:
        expression = returned_expression(text)
        if expression is None:
            return Verdict(correct=False, weak=False, reason="no line `return EXPRESSION`")
        try:
            tree = parse(expression)
            answer = ast.unparse(tree)
        except (ExpressionError, RecursionError) as error:
            return Verdict(correct=False, weak=False, reason=str(error) or "nested too deeply")
        weak = failed_test(tree, self.visible) is None
        reason = failed_test(tree, self.hidden)
        return Verdict(reason is None, answer, weak, reason=reason or "")


def returned_expression(text: str) -> str | None:
    """Return what stands after the first `return`; None if something else than comments precedes it."""
    for line in text.split("\n", _MOST_LINES)[:_MOST_LINES]:
        line = line.strip()
        if line.startswith(("return ", "return(")):
            return line.removeprefix("return").strip()
        if line and not line.startswith("#"):
            return None
    return None


def failed_test(tree: ast.expr, tests: Sequence[Test]) -> str | None:
    """Return why a program fails a test, None if it passes all."""
    for given, expected in tests:
        try:
            output = evaluate(tree, given)
        except (ExpressionError, RecursionError) as error:
            return f"error: {error}"
        if output != list(expected):
            return "fails a test"
    return None


# ---- drawing ----

_Step = tuple[str, int | None]


def draw_code(draws: Draws) -> Example:
    """Draw a composition of 1 to 4 different operations, none of which can be left out, and that says something.

    Compositions that nearly always give the empty list (the odd ones of doubled numbers) are the same in many words.
    """
    while True:
        names = draws.shuffled(tuple(OPERATIONS))[: draws.between(1, 4)]
        if {"take", "drop"} <= set(names):  # one number of a list can be had by take and drop, or by other means
            continue
        chosen = [(name, _constant(name, draws)) for name in names]
        inputs = [_input(draws) for _ in range(HIDDEN_TESTS)]
        outputs = _outputs(chosen, inputs)
        if sum(map(bool, outputs)) < HIDDEN_TESTS // 3:
            continue
        shorter = [chosen[:place] + chosen[place + 1 :] for place in range(len(chosen))]
        if all(_outputs(steps, inputs) != outputs for steps in shorter):
            break
    visible = [_input(draws) for _ in range(draws.between(1, 5))]
    tests = zip(visible, _outputs(chosen, visible), strict=True)
    sentence = ", then ".join(OPERATIONS[name].says.format(k=constant) for name, constant in chosen)
    notes = [f"    # notes: {OPERATIONS[name].note}" for name, _ in chosen if draws.chance(0.5)]
    plan = ", ".join(name if constant is None else f"{name} {constant}" for name, constant in chosen)
    lines = [*notes, f"    # plan: {plan}", f"    return {_expression(chosen)}"]
    return Example(
        prompt=f'def f(xs):\n    """{sentence[0].upper()}{sentence[1:]}."""\n',
        solution="\n".join(lines) + "\n",
        verifier=ListProgram(visible=tuple(tests), hidden=tuple(zip(inputs, outputs, strict=True))),
        group=_group(names),
        difficulty=len(chosen),
        stop=("\n\n", "def "),
    )


_SAME = {"reverse": None, "descend": "ascend", "odds": "evens"}


def _group(names: Sequence[str]) -> str:
    """Return the group of a composition: which operations it has, without order and constants.

    Programs that compute the same share it: `double` and `add` in both orders, `descend` as `ascend` and `reverse`, the
    odd numbers plus 1 as the even ones among the numbers plus 1.
    """
    kinds = {_SAME.get(name, name) for name in names}
    return " ".join(sorted(kind for kind in kinds if kind)) or "reverse"


def _constant(name: str, draws: Draws) -> int | None:
    constants = OPERATIONS[name].constants
    return None if constants is None else draws.between(*constants)


def _input(draws: Draws) -> tuple[int, ...]:
    return tuple(draws.between(-20, 20) for _ in range(draws.below(10)))


def _outputs(chosen: Sequence[_Step], inputs: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    results = []
    for xs in inputs:
        values = list(xs)
        for name, constant in chosen:
            values = OPERATIONS[name].apply(values, *([] if constant is None else [constant]))
        results.append(tuple(values))
    return results


def _expression(chosen: Sequence[_Step]) -> str:
    text = "xs"
    for name, constant in chosen:
        text = f"{name}({text})" if constant is None else f"{name}({text}, {constant})"
    return text


CODE = Family("code", "compositions of 1 to 4 list operations, described in English", 0.2, lambda _: Drawn(draw_code))
