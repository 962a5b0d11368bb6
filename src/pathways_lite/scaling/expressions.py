"""Expressions over the columns of a table: rows to keep, as in `dataset == "comma" and N > 1e8`, and new columns.

They are parsed as Python and evaluated node by node over a fixed list of operations; nothing of Python runs.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.scaling.number_text import parse_column, parse_number

_BACKTICKS = re.compile(r"`([^`]+)`")

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.Mod: operator.mod,
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "log": np.log, "ln": np.log, "log2": np.log2, "log10": np.log10, "exp": np.exp, "sqrt": np.sqrt, "abs": np.abs,
}  # fmt: skip
EXAMPLES = '`dataset == "comma"`, `N > 1e8 and seed in (1, 2)`, `contains(run, "cosine")`, `` `Model Size` < 1e9 ``'


class _Refused(Exception):
    """What an expression has that is not allowed."""


def evaluate(expression: str, table: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the value [rows] of an expression over the columns; names with spaces or signs stand in backticks.

    Known are numbers, texts, + - * / % **, comparisons, `in (…)`, and, or, not, ln, log2, log10, exp, sqrt, abs and
    contains(column, "text"). Raises UserError for anything else, and for unknown columns.
    """
    names: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        return names.setdefault(match[1].strip(), f"column_{len(names)}_")

    source = _BACKTICKS.sub(placeholder, expression)
    try:
        tree = ast.parse(source.strip(), mode="eval")
        value = _Evaluator(table, {short: name for name, short in names.items()}).visit(tree.body)
    except SyntaxError:
        raise UserError(f"{expression!r} is not an expression over columns; write e.g. {EXAMPLES}") from None
    except (_Refused, TypeError) as error:
        raise UserError(f"{expression!r}: {error}; write e.g. {EXAMPLES}") from None
    rows = len(next(iter(table.values()), ()))
    return np.broadcast_to(value, (rows,)).copy()


def rows_where(expression: str, table: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the mask [rows] of the rows for which the condition holds. Raises UserError if there are none."""
    value = evaluate(expression, table)
    if value.dtype != np.bool_:
        raise UserError(f"--where {expression!r} is not a condition; write e.g. {EXAMPLES}")
    if not value.any():
        raise UserError(f"--where {expression!r} selects none of {len(value)} rows")
    return value


class _Evaluator(ast.NodeVisitor):
    def __init__(self, table: Mapping[str, np.ndarray], names: Mapping[str, str]) -> None:
        self.table, self.names = table, names

    def generic_visit(self, node: ast.AST) -> Any:
        raise _Refused(f"{ast.unparse(node)!r} is not known here")

    def visit_Constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, (int, float, str)):
            return self.generic_visit(node)
        return node.value

    def visit_Name(self, node: ast.Name) -> np.ndarray:
        return self._column(self.names.get(node.id, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> np.ndarray:
        return self._column(ast.unparse(node))  # config.lr is a column of nested JSON

    def _column(self, name: str) -> np.ndarray:
        if name not in self.table:
            raise _Refused(f"there is no column {name!r}, and texts are quoted.{did_you_mean(name, self.table)}")
        return self.table[name]

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        if type(node.op) not in _BINARY:
            return self.generic_visit(node)
        with np.errstate(all="ignore"):
            return _BINARY[type(node.op)](self._number(node.left), self._number(node.right))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            return ~self._condition(node.operand)
        return -self._number(node.operand) if isinstance(node.op, ast.USub) else self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return combine.reduce(np.broadcast_arrays(*(self._condition(value) for value in node.values)))

    def visit_Compare(self, node: ast.Compare) -> Any:
        result: Any = True
        left = node.left
        for operation, right in zip(node.ops, node.comparators, strict=True):
            result = np.logical_and(result, self._compare(left, operation, right))
            left = right
        return result

    def _compare(self, left: ast.expr, operation: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(operation, (ast.In, ast.NotIn)):
            if not isinstance(right, (ast.Tuple, ast.List, ast.Set)):
                raise _Refused("`in` needs a list, as in seed in (1, 2)")
            equal = [self._compare(left, ast.Eq(), choice) for choice in right.elts]
            any_equal = np.logical_or.reduce(equal)
            return any_equal if isinstance(operation, ast.In) else ~any_equal
        if type(operation) not in _COMPARISONS:
            return self.generic_visit(operation)
        first, second = self.visit(left), self.visit(right)
        texts = [value for value in (first, second) if isinstance(value, str)]
        if texts:  # a text is compared with texts, unless the column holds numbers
            column = second if isinstance(first, str) else first
            if isinstance(column, np.ndarray) and column.dtype != object:
                try:
                    return _COMPARISONS[type(operation)](column, parse_number(texts[0]))
                except ValueError as error:
                    raise _Refused(f"{ast.unparse(left)} holds numbers, but {error}") from None
            return _COMPARISONS[type(operation)](first, second)
        if isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and first.dtype == second.dtype == object:
            return _COMPARISONS[type(operation)](first, second)
        return _COMPARISONS[type(operation)](self._as_number(left, first), self._as_number(right, second))

    def visit_Call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "contains" and len(node.args) == 2:
            column, text = self.visit(node.args[0]), self.visit(node.args[1])
            return np.array([str(text) in str(value) for value in np.atleast_1d(column)])
        if name not in _FUNCTIONS or len(node.args) != 1:
            return self.generic_visit(node)
        with np.errstate(all="ignore"):
            return _FUNCTIONS[name](self._number(node.args[0]))

    def _condition(self, node: ast.expr) -> np.ndarray:
        value = np.asarray(self.visit(node))
        if value.dtype != np.bool_:
            raise _Refused(f"{ast.unparse(node)!r} is not a condition")
        return value

    def _number(self, node: ast.expr) -> Any:
        return self._as_number(node, self.visit(node))

    def _as_number(self, node: ast.expr, value: Any) -> Any:
        if isinstance(value, str):
            raise _Refused(f"{value!r} is a text where a number is expected")
        return parse_column(ast.unparse(node), value) if isinstance(value, np.ndarray) else value
