#!/usr/bin/env python3
"""Print the tables of what quantization costs in docs/results/sampling.md, and how the study's criteria came out.

    python tools/quantization_results.py quantized.csv

It reads the table that `runs quantization` wrote (see configs/ablations/quantization.py), fits its law to the rises of
trunk and of cooled checkpoints and of both methods, and writes docs/results/data/quantized.csv, the columns that this
needs, and quantization.json, from which tools/results_page.py has the verdicts. Without a file it reads what is stored.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from pathways_lite.scaling.fit import Fit, fit_law
from pathways_lite.scaling.laws.registry import find_law
from pathways_lite.scaling.quality import quality
from pathways_lite.scaling.table import Table, read_table
from sampling_results import DATA, Claim, markdown, number, write_claims

COLUMNS = (
    "trunk", "seed", "stage", "step", "N", "N_non_embedding", "D", "P", "effective_bits", "quantization", "L_before",
    "rise", "rise_error",
)  # fmt: skip
Found = Mapping[tuple[str, str, tuple[int, ...]], Fit]
"""Fits by method, phase and bits."""

WHERE = "60k to 728k parameters without embeddings, 0.13 to 2.6 million bytes, 3 seeds"
METHODS, PHASES = ("gptq", "nearest"), ("cooled", "trunk")
FITTED_BITS, FEW_BITS = (2, 3, 4), (2, 3)
FREE = 0.001  # nats


def part(table: Table, method: str, phase: str, bits: tuple[int, ...]) -> Table:
    """Return the rows of a method at some bits, of checkpoints of the trunk or of cooled ones."""
    chosen = (table["quantization"] == method) & np.isin(table["P"], bits)
    chosen &= (table["stage"] == "cooled") == (phase == "cooled")
    return {name: column[chosen] for name, column in table.items()}


def fit(rows: Table, bootstraps: int = 1000) -> Fit | None:
    """Fit the law as `fit quantization --by trunk` does; None where a rise is not above 0, of which no power law is."""
    if rows["rise"].min() <= 0:
        return None
    named = {"N": rows["N_non_embedding"], **{name: rows[name] for name in ("D", "P", "rise")}}
    return fit_law(find_law("quantization"), named, bootstraps=bootstraps, groups=rows["trunk"], units=False)


def fits(table: Table) -> Found:
    """Return the fits that can be made."""
    keys = itertools.product(METHODS, PHASES, (FITTED_BITS, FEW_BITS))
    return {key: found for key in keys if (found := fit(part(table, *key))) is not None}


def law_rows(found: Found) -> Iterator[list[str]]:
    """Yield for each fit the exponents with their intervals."""
    for (method, phase, bits), each in found.items():
        intervals = each.parameter_intervals()
        numbers = [number(intervals[name]) for name in ("beta", "alpha", "gamma")]
        yield [method, phase, ", ".join(map(str, bits)), f"{each.rows}", *numbers, f"{quality(each)['r2_of_link']:.3f}"]


def rise_rows(table: Table) -> Iterator[list[str]]:
    """Yield the mean rise by method and seed, in 0.001 nats, for each number of bits and either kind of checkpoint."""
    for bits in sorted(map(int, set(table["P"]))):
        for phase in PHASES:
            means = [mean_rises(table, method, phase, bits) for method in METHODS]
            ratios = " · ".join(f"{a / b:.2f}" for a, b in zip(*means, strict=True)) if bits in FEW_BITS else ""
            yield [f"{bits}", phase, *(" · ".join(f"{1000 * each:.2f}" for each in row) for row in means), ratios]


def mean_rises(table: Table, method: str, phase: str, bits: int) -> list[float]:
    """Return the mean rise over checkpoints of each seed."""
    rows = part(table, method, phase, (bits,))
    return [float(rows["rise"][rows["seed"] == seed].mean()) for seed in sorted(set(rows["seed"]))]


def claims(table: Table, found: Found) -> dict[str, Claim]:
    """Return what came out of each criterion: whether it holds (None: an interval decides nothing), and the numbers."""
    result: dict[str, Claim] = {}
    for claim, name in (("tokens", "beta"), ("size", "alpha"), ("bits", "gamma")):
        intervals = [each.parameter_intervals()[name] for each in found.values()]
        limits = f"{min(each.low for each in intervals):.2f} to {max(each.high for each in intervals):.2f}"
        result[claim] = Claim(
            True if all(each.low > 0 for each in intervals) else None,
            f"{name} {', '.join(f'{each.value:.2f}' for each in intervals)}; intervals from {limits}",
        )
    ratios = [
        gptq / nearest
        for phase, bits in itertools.product(PHASES, FEW_BITS)
        for gptq, nearest in zip(*(mean_rises(table, method, phase, bits) for method in METHODS), strict=True)
    ]
    result["gptq"] = Claim(
        max(ratios) < 1,
        f"{min(ratios):.2f} to {max(ratios):.2f} of the rise of rounding to nearest, by seed and bits",
    )
    free = [
        abs(each)
        for method, phase in itertools.product(METHODS, PHASES)
        for each in mean_rises(table, method, phase, 8)
    ]
    result["eight_bits"] = Claim(max(free) < FREE, f"at most {max(free):.1e} nats in any seed")
    return result


def tables(table: Table, found: Found) -> list[str]:
    """Return the tables of the page."""
    return [
        markdown(["method", "checkpoints", "bits", "rows", "β (tokens)", "α (size)", "γ (bits)", "R² of log rise"],
                 law_rows(found)),
        markdown(["bits", "checkpoints", "GPTQ", "nearest", "ratio"], rise_rows(table)),
    ]  # fmt: skip


def store(path: Path) -> None:
    """Write the columns that are needed."""
    short = ("effective_bits", "L_before", "rise", "rise_error")
    with path.open(newline="") as source, (DATA / "quantized.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in csv.DictReader(source):
            writer.writerow(row | {name: f"{float(row[name]):.6g}" for name in short})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", help="of `runs quantization`")
    arguments = parser.parse_args()
    if arguments.table:
        store(arguments.table)
    table = read_table(DATA / "quantized.csv")
    found = fits(table)
    lines = write_claims("quantization", WHERE, claims(table, found))
    print("\n\n".join([*tables(table, found), lines]))


if __name__ == "__main__":
    main()
