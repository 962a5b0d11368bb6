#!/usr/bin/env python3
"""Print the tables of docs/results/sampling.md, and how the study's criteria came out, from docs/results/data.

    python tools/sampling_results.py

It reads what the commands in configs/ablations/sampling.py wrote: `judge --numbers` for sums and for programs with one
and with three visible tests (sampling_sum.csv, sampling_code_1.csv, sampling_code_3.csv), and `evaluate --along`
(sampling_tasks.csv). It also writes sampling.json, from which tools/results_page.py has the verdicts.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pathways_lite.intervals import Interval
from pathways_lite.scaling.early_ranking import ALL_TASKS, early_rankings
from pathways_lite.scaling.table import Table, read_table

DATA = Path(__file__).parent.parent / "docs" / "results" / "data"
PREDICTED_AT, PREDICTED_FROM, ATTEMPTS, COST, FRACTION = 4096, 64, 512, 4, 0.25
SEEDS_NEEDED = 2
WHERE = "76k to 584k parameters, 16 to 2.1 tokens per parameter, 3 seeds"
_WORDS = {True: "holds", False: "does not hold", None: "cannot be said"}
_RUN = re.compile(r"width_(\d+)_(\d+)")

Numbers = dict[tuple[int, int], Callable[..., Interval]]
"""By width and seed: the interval of a quantity, at a k where it has one."""


def read_numbers(path: Path) -> Numbers:
    """Read a table of `judge --numbers` whose directories are named by width and seed."""
    table = read_table(path)
    return {
        (int(match[1]), int(match[2])): _lookup(table, name)
        for name in dict.fromkeys(map(str, table["samples"]))
        if (match := _RUN.search(name))
    }


def _lookup(table: Table, name: str) -> Callable[..., Interval]:
    def find(quantity: str, k: float | None = None) -> Interval:
        chosen = (table["samples"] == name) & (table["quantity"] == quantity)
        if k is not None:
            chosen &= table["k"] == k
        (row,) = np.flatnonzero(chosen)
        return Interval(*(float(table[column][row]) for column in ("value", "low", "high")))

    return find


def best_attempts(path: Path, cost: float) -> dict[tuple[int, int], int]:
    """Return how many attempts pay best at a cost of a wrong result, by width and seed."""
    table = read_table(path)
    rows = np.flatnonzero(table["quantity"] == f"reward_at_cost_{cost:g}")
    keys = [_RUN.search(str(table["samples"][row])) for row in rows]
    return {(int(m[1]), int(m[2])): int(table["k"][row]) for m, row in zip(keys, rows, strict=True) if m}


def widths(numbers: Numbers) -> list[int]:
    return sorted({width for width, _ in numbers})


def seeds(numbers: Numbers) -> list[int]:
    return sorted({seed for _, seed in numbers})


# ---- tables ----


def coverage_rows(sums: Numbers) -> Iterator[list[str]]:
    """Yield for each run coverage by 1 sample and by all, and what the first samples predict of it."""
    for (width, seed), find in sorted(sums.items()):
        measured = find("coverage_measured", PREDICTED_AT)
        predictions = [find(f"coverage_by_{name}_from_{PREDICTED_FROM}", PREDICTED_AT) for name in ("beta", "power")]
        marked = [percent(each) + ("" if each.contains(measured.value) else " ✗") for each in predictions]
        majority = find("majority", PREDICTED_AT)
        yield [f"{width}", f"{seed}", *map(percent, (find("coverage", 1), measured)), *marked, percent(majority)]


def weak_rows(one: Numbers, three: Numbers, attempts: dict[tuple[int, int], int]) -> Iterator[list[str]]:
    """Yield for each run what weak verifiers make of programs."""
    for key, find in sorted(one.items()):
        yield [
            *map(str, key), percent(find("single_accuracy")), percent(find("conditional_accuracy")),
            percent(find("solved", ATTEMPTS)), percent(three[key]("solved", ATTEMPTS)),
            percent(find("perfect", ATTEMPTS)), percent(find("false_positives", ATTEMPTS)), f"{attempts[key]:,}",
        ]  # fmt: skip


def ranking_rows(tasks: Table) -> Iterator[list[str]]:
    """Yield for each metric its tau with the final accuracy, and how much that is above accuracy's, over all tasks."""
    for each in early_rankings(tasks):
        if each.fraction == FRACTION and each.task == ALL_TASKS:
            yield [f"`{each.metric}`", number(each.tau), number(each.over_accuracy)]


def ranking_by_task_rows(tasks: Table) -> Iterator[list[str]]:
    """Yield for each metric its tau by task."""
    found = [each for each in early_rankings(tasks) if each.fraction == FRACTION and each.task != ALL_TASKS]
    names = list(dict.fromkeys(each.task for each in found))
    for metric in dict.fromkeys(each.metric for each in found):
        by_task = {each.task: f"{each.tau.value:.2f}" for each in found if each.metric == metric}
        yield [f"`{metric}`", *(by_task[name] for name in names)]


def percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def number(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


# ---- criteria ----


class Claim(NamedTuple):
    """A criterion of a study: whether it holds (None: an interval decides nothing), and the numbers."""

    holds: bool | None
    found: str


def claims(data: Path) -> dict[str, Claim]:
    """Return what came out of each criterion, by name."""
    return {**_coverage_claims(data), **_weak_claims(data), **_ranking_claims(data)}


def _coverage_claims(data: Path) -> dict[str, Claim]:
    sums = read_numbers(data / "sampling_sum.csv")
    result, errors = {}, {}
    for name in ("beta", "power"):
        right = {width: [_is_predicted(sums[width, seed], name) for seed in seeds(sums)] for width in widths(sums)}
        counts = ", ".join(f"{sum(each)} of {len(each)} at width {width}" for width, each in right.items())
        result[f"coverage_by_{name}"] = Claim(
            all(sum(each) >= SEEDS_NEEDED for each in right.values()), f"right for {counts}"
        )
        errors[name] = [np.mean([_error(sums[width, seed], name) for width in widths(sums)]) for seed in seeds(sums)]
    pairs = list(zip(errors["beta"], errors["power"], strict=True))
    points = " and ".join(", ".join(f"{100 * each:.1f}" for each in errors[name]) for name in ("beta", "power"))
    result["beta_beats_power"] = Claim(
        all(beta < power for beta, power in pairs), f"errors of {points} percentage points by seed"
    )
    return result


def _weak_claims(data: Path) -> dict[str, Claim]:
    one, three = (read_numbers(data / f"sampling_code_{count}.csv") for count in (1, 3))
    wrong = [find("false_positives", ATTEMPTS) for find in one.values()]
    solved = [(find("solved", ATTEMPTS).value, three[key]("solved", ATTEMPTS).value) for key, find in one.items()]
    accepted = [[one[width, seed]("conditional_accuracy").value for width in widths(one)] for seed in seeds(one)]
    attempts = best_attempts(data / "sampling_code_1.csv", COST)
    few = {width: [attempts[width, seed] < 10 for seed in seeds(one)] for width in widths(one)}
    return {
        "ceiling": Claim(
            all(each.low > 0 for each in wrong),
            f"with one visible test {_range([each.value for each in wrong])} false positives at K = {ATTEMPTS}",
        ),
        "more_tests": Claim(
            all(of_one < of_three for of_one, of_three in solved),
            f"three visible tests solve {_range([b - a for a, b in solved])} more of the problems than one",
        ),
        "larger_is_safer": Claim(
            all(row == sorted(row) for row in accepted),
            "; ".join(", ".join(f"{100 * each:.0f} %" for each in row) for row in accepted) + " by size, for each seed",
        ),
        "attempts_stop_to_pay": Claim(
            all(sum(each) >= SEEDS_NEEDED for each in few.values()),
            f"at a cost of {COST} {min(attempts.values())} to {max(attempts.values())} attempts pay best",
        ),
    }


def _ranking_claims(data: Path) -> dict[str, Claim]:
    return {
        f"early_{each.metric}": Claim(
            _is_above_zero(each.over_accuracy),
            f"tau of {each.metric} {number(each.over_accuracy)} above that of accuracy",
        )
        for each in early_rankings(read_table(data / "sampling_tasks.csv"))
        if each.fraction == FRACTION and each.task == ALL_TASKS and each.metric != "accuracy"
    }


def _is_above_zero(interval: Interval) -> bool | None:
    return True if interval.low > 0 else False if interval.high < 0 else None


def _range(values: Sequence[float]) -> str:
    return f"{100 * min(values):.1f} to {100 * max(values):.1f} %"


def _is_predicted(find: Callable[..., Interval], name: str) -> bool:
    predicted = find(f"coverage_by_{name}_from_{PREDICTED_FROM}", PREDICTED_AT)
    return predicted.contains(find("coverage_measured", PREDICTED_AT).value)


def _error(find: Callable[..., Interval], name: str) -> float:
    predicted = find(f"coverage_by_{name}_from_{PREDICTED_FROM}", PREDICTED_AT).value
    return abs(predicted - find("coverage_measured", PREDICTED_AT).value)


def tables(data: Path) -> list[str]:
    """Return the tables of the page."""
    sums, one, three = (read_numbers(data / f"sampling_{name}.csv") for name in ("sum", "code_1", "code_3"))
    tasks = read_table(data / "sampling_tasks.csv")
    names = list(dict.fromkeys(map(str, tasks["task"])))
    return [
        markdown(["width", "seed", "1 sample", "4,096", "Beta from 64", "power law from 64", "majority of 4,096"],
                 coverage_rows(sums)),
        markdown(["width", "seed", "a sample", "an accepted one", "1 visible test", "3 visible tests", "all tests",
                  "false positives", "K that pays"],
                 weak_rows(one, three, best_attempts(data / "sampling_code_1.csv", COST))),
        markdown(["metric at 25 %", "tau with final accuracy", "above accuracy's"], ranking_rows(tasks)),
        markdown(["metric at 25 %", *(f"`{name}`" for name in names)], ranking_by_task_rows(tasks)),
    ]  # fmt: skip


def write_claims(study: str, where: str, claims: Mapping[str, Claim]) -> str:
    """Write STUDY.json, of which the page is sampling.md, and return the claims as lines."""
    content = {"study": study, "page": "sampling.md", "where": where,
               "claims": {name: claim._asdict() for name, claim in claims.items()}}  # fmt: skip
    (DATA / f"{study}.json").write_text(json.dumps(content, indent=1) + "\n")
    return "\n".join(f"{name}: {_WORDS[claim.holds]}, {claim.found}" for name, claim in claims.items())


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    lines = write_claims("sampling", WHERE, claims(DATA))
    print("\n\n".join([*tables(DATA), lines]))


if __name__ == "__main__":
    main()
