"""Format numbers and durations for people."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pathways_lite.ledger import CostElsewhere

NOT_A_CODE_LENGTH = "* not a code length: the tokenizer loses text, so these bits per byte compare with nothing."

UNKNOWN_COST = (
    "unknown: what a model that was imported had cost elsewhere, which is not free; FLOPs and tokens are those spent "
    "here. `pathways-lite convert --from hf --tokens N` states it."
)
STATED_COST = "stated: with what a user said of the training of a model that was imported (`convert --tokens`)."
COST_NOTES: dict[CostElsewhere, str] = {"unknown": UNKNOWN_COST, "stated": STATED_COST}

_DECIMAL = re.compile(r"-?\d+(\.\d+|(\.\d+)?e[+-]?\d+)")


def total_cost(value: float, elsewhere: CostElsewhere | None, unit: str = "") -> str:
    """Format what a chain of stages cost as `si` does, and what is not known of it: "1.2 P + unknown"."""
    return si(value, unit) + {"unknown": " + unknown", "stated": ", stated", None: ""}[elsewhere]


def si(value: float, unit: str = "") -> str:
    """Format three significant digits with an SI prefix: 203e9, "FLOP/s" is "203 GFLOP/s"; 5.81e6 alone is "5.81 M"."""
    prefixes = (
        ("Y", 1e24),
        ("Z", 1e21),
        ("E", 1e18),
        ("P", 1e15),
        ("T", 1e12),
        ("G", 1e9),
        ("M", 1e6),
        ("k", 1e3),
        ("", 1.0),
    )
    # Compared after rounding, so that 999,999 becomes "1 M" rather than "1000 k".
    prefix, factor = next((pair for pair in prefixes if abs(value) >= 0.9995 * pair[1]), prefixes[-1])
    return f"{float(f'{value / factor:.3g}'):.4g} {prefix}{unit}".rstrip()


def round_apart(values: Sequence[str | None], digits: int = 4) -> list[str | None]:
    """Round the decimal numbers among texts to `digits` significant ones, or to more where different ones would agree.

    Other texts stay, whole numbers too.
    """
    numbers = {value for value in values if value is not None and _DECIMAL.fullmatch(value)}
    for precision in range(digits, 18):
        rounded = {value: f"{float(value):.{precision}g}" for value in numbers}
        if len(set(rounded.values())) == len(numbers):
            return [value if value is None else rounded.get(value, value) for value in values]
    return list(values)


def duration(seconds: float) -> str:
    """Format seconds as in "350 µs", "42 s", "3 min 05 s", "2 h 07 min"."""
    if 0 < seconds < 0.0995:
        return si_below_one(seconds, "s")
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def age(seconds: float) -> str:
    """Format how long ago something was, in one unit: "3 min", "5 h", "12 d"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return "< 1 min"


class Unit(NamedTuple):
    """A unit for the numbers of a table: `format` gives as many decimals as leave three digits of the largest."""

    name: str
    size: float
    decimals: int

    def format(self, value: float) -> str:
        return f"{value / self.size:.{self.decimals}f}"


def memory_unit(largest: float) -> Unit:
    """Return the unit for bytes of which `largest` is the sum: GiB, or a smaller one where that would be below 1."""
    units = (Unit("GiB", 2**30, 2), Unit("MiB", 2**20, 2), Unit("KiB", 2**10, 2))
    return next((unit for unit in units if largest >= unit.size), units[-1])


def time_unit(largest: float) -> Unit:
    """Return the unit for seconds of which `largest` is the sum: s, or ms or µs where that would be below 0.1."""
    units = (Unit("s", 1.0, 4), Unit("ms", 1e-3, 3), Unit("µs", 1e-6, 2))
    return next((unit for unit in units if largest >= 0.1 * unit.size), units[-1])


def si_below_one(value: float, unit: str) -> str:
    """Format two significant digits of a small number: 0.0123, "s" is "12 ms"; 3.5e-7 is "0.35 µs"."""
    prefix, factor = ("m", 1e3) if value >= 0.9995e-3 else ("µ", 1e6)
    return f"{float(f'{value * factor:.2g}'):.4g} {prefix}{unit}"


def byte_size(size: float) -> str:
    """Format bytes with three significant digits: "1.48 MiB", "12 GiB"."""
    names = ("B", "KiB", "MiB", "GiB", "TiB")
    power = next((n for n in range(len(names)) if abs(size) < 999.5 * 1024**n), len(names) - 1)
    return f"{float(f'{size / 1024**power:.3g}'):.4g} {names[power]}"


def fixed(value: float | None, digits: int) -> str:
    """Format a number with some decimal places; a dash where it is unknown or not finite."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """Format a share in percent; a dash where it is unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.1%}"


def bits_per_byte(result: Mapping[str, Any], digits: int = 4) -> str:
    """Format the bits per byte of a held-out result, marked where the tokenizer loses text."""
    return f"{result['bits_per_byte']:.{digits}f}{'*' if result.get('lossy') else ''}"


def held_out_note(results: Iterable[Mapping[str, Any]]) -> str | None:
    """Return what readers of held-out results must know: the mark of `bits_per_byte`, an overlap; None for neither."""
    results = list(results)
    notes = [NOT_A_CODE_LENGTH] if any(result.get("lossy") for result in results) else []
    if overlaps := sorted({result["overlap"] for result in results if result.get("overlap")}):
        notes.append(
            f"Measured with an overlap: after the first window, tokens of long documents see at least {overlaps[0]} "
            "tokens before them. Losses without it are higher and do not compare."
        )
    return " ".join(notes) or None
