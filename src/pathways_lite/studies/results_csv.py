"""A study's comparisons as a CSV file of plain numbers, for other programs."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from pathways_lite.comparison.table import Results

HEADER = (
    "held_out", "arm", "baseline", "runs", "loss", "flops", "difference", "low", "high", "interval",
    "speedup", "speedup_low", "speedup_high", "area", "area_low", "area_high",
)  # fmt: skip
"""`held_out`: the domain, or empty for all of the text. `loss`: at the end, mean over runs. `difference`: from the
baseline's at `flops`, with its 95 % interval (`interval`: student, over pairs of runs, or bootstrap). Speedup and area,
with bootstrap intervals, as on the page. Empty where nothing is known."""


def write_csv(path: Path, results: Results | None, by_domain: Mapping[str, Results]) -> None:
    """A row per arm, for all of the held-out text first; only the header while there is nothing to compare."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        if results is not None:
            table.writerows(_rows("", results))
        for domain, found in by_domain.items():
            table.writerows(_rows(domain, found))


def _rows(domain: str, results: Results) -> Iterator[list[object]]:
    found = {comparison.arm: comparison for comparison in results.comparisons}
    for arm in results.arms:
        row: list[object] = [domain, arm.name, results.baseline, len(arm.curves), arm.final_loss]
        if (c := found.get(arm.name)) is not None:
            kind, interval = ("bootstrap", c.difference) if c.student is None else ("student", c.student)
            row += [c.flops, c.difference.value, interval.low, interval.high, kind]
            row += [value for i in (c.speedup, c.area) for value in (i.value, i.low, i.high)]
        known = ["" if isinstance(value, float) and math.isnan(value) else value for value in row]
        yield [*known, *[""] * (len(HEADER) - len(known))]
