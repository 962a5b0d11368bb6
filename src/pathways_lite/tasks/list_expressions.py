"""Expressions over 12 list operations, evaluated without `eval`: an AST whitelist, bounded sizes, a limit on steps.

Nothing that a model writes is executed. An expression is parsed, every node of the tree must be a call of one of the
operations, the argument `xs`, an integer or a list of them, and the tree is walked by functions of this file.
"""

from __future__ import annotations

import ast
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MOST_CHARACTERS = 400
MOST_STEPS = 10_000  # nodes visited and list elements made, per evaluation
LARGEST = 10**12  # absolute value of integers


class ExpressionError(Exception):
    """The expression is not allowed, or cannot be evaluated."""


@dataclass(frozen=True)
class Operation:
    """A function of a list, and of an integer where `constants` are given; `{k}` in texts is that integer.

    Attributes:
      says: the operation in controlled English, in the imperative.
      note: what a person would note about it.
      constants: the range from which the integer is drawn, both ends included.
    """

    apply: Callable[..., list[int]]
    says: str
    note: str
    constants: tuple[int, int] | None = None


OPERATIONS = {
    "reverse": Operation(lambda xs: xs[::-1], "reverse the list", "the last number comes first"),
    "ascend": Operation(sorted, "sort the numbers in ascending order", "the smallest number comes first"),
    "descend": Operation(
        lambda xs: sorted(xs, reverse=True), "sort the numbers in descending order", "the largest number comes first"
    ),
    "unique": Operation(
        lambda xs: list(dict.fromkeys(xs)), "keep the first of equal numbers", "no number is there twice"
    ),
    "double": Operation(lambda xs: [2 * x for x in xs], "double every number", "all numbers become even"),
    "negate": Operation(lambda xs: [-x for x in xs], "change the sign of every number", "zero stays zero"),
    "add": Operation(lambda xs, k: [x + k for x in xs], "add {k} to every number", "the length stays the same", (1, 9)),
    "take": Operation(
        lambda xs, k: xs[:k] if k >= 0 else [], "keep the first {k} numbers", "a shorter list stays as it is", (1, 6)
    ),
    "drop": Operation(
        lambda xs, k: xs[k:] if k >= 0 else xs, "drop the first {k} numbers", "a shorter list becomes empty", (1, 4)
    ),
    "evens": Operation(lambda xs: [x for x in xs if x % 2 == 0], "keep the even numbers", "zero is even"),
    "odds": Operation(lambda xs: [x for x in xs if x % 2], "keep the odd numbers", "negative numbers may be odd"),
    "totals": Operation(
        lambda xs: list(itertools.accumulate(xs)),
        "replace every number by the sum of the numbers up to it",
        "the first number stays the same",
    ),
}


def parse(text: str) -> ast.expr:
    """Return the tree of an expression of operations. Raises ExpressionError for everything else."""
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(f"longer than {MOST_CHARACTERS} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser warns of odd literals, which are refused below
            tree = ast.parse(text.strip(), mode="eval").body
        _check(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError("not an expression") from error
    return tree


def _check(node: ast.expr) -> None:
    match node:
        case ast.Name(id="xs"):
            return
        case ast.Constant(value=int(value)) if type(value) is int:
            if value > LARGEST:
                raise ExpressionError("an integer is too large")
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))) if type(value) is int:
            _check(node.operand)
        case ast.List(elts=items):
            for item in items:
                _check(item)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in OPERATIONS:
            for arg in args:
                _check(arg)
        case ast.Call(func=ast.Name(id=name)):
            raise ExpressionError(f"{name} is not one of the operations, or has other arguments")
        case ast.Name(id=name):
            raise ExpressionError(f"the name {name} is not known; the argument is xs")
        case _:
            raise ExpressionError(f"{type(node).__name__} is not allowed")


def evaluate(tree: ast.expr, xs: Sequence[int], most_steps: int = MOST_STEPS) -> list[int]:
    """Return the list that a tree of `parse` makes of `xs`. Raises ExpressionError, also past `most_steps`."""
    steps = 0

    def count(number: int) -> None:
        nonlocal steps
        steps += number
        if steps > most_steps:
            raise ExpressionError("too many steps")

    def integer(node: ast.expr) -> int:
        count(1)
        match node:
            case ast.Constant(value=int(value)):
                return value
            case ast.UnaryOp(operand=ast.Constant(value=int(value))):
                return -value
        raise ExpressionError("a list stands where an integer is expected")

    def items(node: ast.expr) -> list[int]:
        count(1)
        match node:
            case ast.Name():
                result = list(xs)
            case ast.List(elts=elements):
                result = [integer(element) for element in elements]
            case ast.Call(func=ast.Name(id=name), args=args):
                operation = OPERATIONS[name]
                if len(args) != 1 + (operation.constants is not None):
                    raise ExpressionError(f"{name} has another number of arguments")
                result = operation.apply(items(args[0]), *(integer(arg) for arg in args[1:]))
            case _:
                raise ExpressionError("an integer stands where a list is expected")
        count(len(result))
        if any(abs(value) > LARGEST for value in result):
            raise ExpressionError("a number became too large")
        return result

    return items(tree)
