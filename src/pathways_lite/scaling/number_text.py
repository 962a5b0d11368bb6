"""Numbers as people write them: 1.5B, 300e9, 2.4T, 1,500,000, 2.5 %, and the marks of missing ones."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.suffixes import POWERS_OF_TEN

Decimal = Literal[".", ","]
"""The mark between units and tenths; the other one may group thousands."""

SUFFIXES = {name.lower(): 10.0**power for name, power in POWERS_OF_TEN.items() if name != "E"}  # 1E is no number
SUFFIXES |= {"mn": 1e6, "bn": 1e9, "tn": 1e12, "%": 1e-2}
MISSING = frozenset({"", "-", "–", "—", "n/a", "na", "nan", "null", "none", "#n/a", "?"})
HOW_TO_WRITE = "numbers may be written as 1500000, 1.5e6, 1.5M, 300B, 2.4T, 1,500,000 or 2.5 %"

_NUMBER = re.compile(
    r"(?P<digits>[+-]?(?:\d[\d_\s.,']*|\.\d+)(?:e[+-]?\d+)?)\s*(?P<suffix>[a-z]{1,2}|%)?", re.IGNORECASE
)
_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(?P<mark>[,.\s_'])\d{3}(?:(?P=mark)\d{3})*$")


def parse_number(text: str, decimal: Decimal | None = None) -> float:
    """Return the number that a text means; NaN for a mark of a missing one.

    `decimal`: the decimal mark; None means a point, and refuses what might be a decimal comma. Raises ValueError, whose
    message says why, for anything else.
    """
    stripped = text.strip().replace("\u2212", "-")  # a minus sign
    if stripped.lower() in MISSING:
        return float("nan")
    try:
        return float(stripped) if decimal != "," else float(stripped.replace(".", "").replace(",", "."))
    except ValueError:
        pass
    match = _NUMBER.fullmatch(stripped)
    factor = 1.0 if match is None or not match["suffix"] else SUFFIXES.get(match["suffix"].lower())
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a number; {HOW_TO_WRITE}")
    digits = match["digits"].strip()
    if decimal is None and digits.count(",") == 1 and re.fullmatch(r"[+-]?\d+,\d+(e[+-]?\d+)?", digits, re.IGNORECASE):
        raise ValueError(f"{text!r} may have a decimal comma or thousands; give --decimal , or --decimal .")
    point = decimal or "."
    grouping = "," if point == "." else "."
    whole, mark, rest = digits.partition(point)
    if _GROUPS.fullmatch(whole):
        whole = re.sub(r"[\s_',.]", "", whole)
    elif grouping in whole or grouping in rest:
        raise ValueError(f"{text!r} is not a number with {point!r} as its decimal mark; {HOW_TO_WRITE}")
    try:
        return float(whole + (f".{rest}" if mark else "")) * factor
    except ValueError:
        raise ValueError(f"{text!r} is not a number; {HOW_TO_WRITE}") from None


def parse_column(name: str, values: np.ndarray, decimal: Decimal | None = None) -> np.ndarray:
    """Return a column of numbers or texts as float64 [rows]. Raises UserError that names the first wrong row."""
    if values.dtype != object:
        return np.asarray(values, np.float64)
    # Columns repeat their texts (sizes, budgets), and parsing is slow.
    known: dict[object, float] = {}
    for row, value in enumerate(values, 1):
        if value not in known:
            try:
                known[value] = parse_number(value, decimal) if isinstance(value, str) else float(value)
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"column {name} holds text where numbers are expected: {value!r} in row {row} ({error})"
                ) from None
    return np.array([known[value] for value in values], np.float64)
