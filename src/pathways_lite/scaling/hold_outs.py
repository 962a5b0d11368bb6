"""Hold out the largest rows of public measurements, and count how many are in the intervals of fits to the others.

`tools/reproduce_scaling.py FOLDER --hold-outs FILE` writes the table.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pathways_lite.scaling import measurements
from pathways_lite.scaling.fit import fit_law
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.laws.hyperparameters import STEP_BATCH, STEP_LEARNING_RATE
from pathways_lite.scaling.laws.inference import COVERAGE
from pathways_lite.scaling.laws.mixing import mixing_law
from pathways_lite.scaling.laws.overtraining import DOWNSTREAM_ERROR, OVERTRAINING
from pathways_lite.scaling.laws.repetition import DATA_CONSTRAINED
from pathways_lite.scaling.quality import average_rows, quality
from pathways_lite.scaling.table import Table, derive_columns
from pathways_lite.scaling.uncertainty import KINDS


class HoldOut(NamedTuple):
    """A law, the rows that it is fitted to, and those that it is asked for."""

    name: str
    law: Law
    fitted: Table
    held_out: Table
    groups: np.ndarray | None = None


def hold_outs(folder: Path) -> Iterator[HoldOut]:
    """Yield every hold-out."""
    table = measurements.read_chinchilla_epoch(folder)
    for by in ("C", "N"):
        yield largest(f"Chinchilla, {by}", CHINCHILLA, table, by, 0.1)
    for dataset in ("c4_original", "rpj", "rw_original"):
        table = measurements.read_gadre(folder, dataset)
        yield largest(f"Gadre, {dataset}, loss", OVERTRAINING, table, "C", 0.25)
        yield largest(f"Gadre, {dataset}, downstream error", DOWNSTREAM_ERROR, table, "C", 0.25)
    for config in ("base/long/kaplan/kaplan/train", "base/long/kaplan/standard/val", "base/short/kaplan/standard/val",
                   "base/short/chinchilla/standard/val", "tuned/short/const/standard/val"):  # fmt: skip
        yield largest(f"Porian, {config}", CHINCHILLA, measurements.read_isoflops(folder, f"rw/{config}"), "C", 0.1)
    for name in ("hot", "cool_end", "hot_sampled_like_chinchilla"):
        table = measurements.read_gemstones(folder, name)
        for by in ("C", "N") if name == "hot" else ("C",):
            yield largest(f"Gemstones, {name}, {by}", CHINCHILLA, table, by, 0.1)
    yield largest("data-constrained", DATA_CONSTRAINED, measurements.read_data_constrained(folder), "C", 0.1)
    yield _regmix(folder)
    near_best = measurements.select_near_best(measurements.read_step_law(folder))
    yield largest("Step Law, learning rate", STEP_LEARNING_RATE, near_best, "C", 0.2)
    yield largest("Step Law, batch", STEP_BATCH, near_best, "C", 0.2)
    for model in measurements.coverage_models(folder):
        yield _coverage(folder, model)


def largest(name: str, law: Law, table: Table, by: str, share: float) -> HoldOut:
    """Hold out the rows with the largest values of a column, at least `share` of all."""
    names = dict.fromkeys((*law.inputs, law.target, by))
    full = derive_columns(table, tuple(names))
    rows = {name: np.asarray(full[name], np.float64) for name in names}
    limit = np.quantile(rows[by], 1 - share)
    held = rows[by] >= max(limit, np.unique(rows[by])[1])
    return HoldOut(name, law, measurements.select_rows(rows, ~held), measurements.select_rows(rows, held))


def _regmix(folder: Path) -> HoldOut:
    (shares, losses), (unseen, measured) = (measurements.read_regmix(folder, split) for split in ("train", "test"))
    names = tuple(f"r{i}" for i in range(shares.shape[1]))
    fitted, held_out = (
        {**dict(zip(names, x.T, strict=True)), "L": y} for x, y in ((shares, losses), (unseen, measured))
    )
    return HoldOut("RegMix, 256 unseen mixtures", mixing_law(names), fitted, held_out)


def _coverage(folder: Path, model: str) -> HoldOut:
    """Fit pass@k up to k = 100, by problem, and ask for the coverage of the same problems at more samples."""
    table = measurements.read_coverage_by_problem(folder, model)
    is_small = table["k"] <= 100
    numbers = {name: np.asarray(table[name], np.float64) for name in ("k", "coverage")}
    beyond = average_rows(measurements.select_rows(numbers, ~is_small), ("k",), "coverage")
    last = {name: column[-1:] for name, column in beyond.items()}
    fitted = measurements.select_rows(numbers, is_small)
    return HoldOut(f"coverage at k = {last['k'][0]:.0f}, {model}", COVERAGE, fitted, last, table["problem"][is_small])


ALL, LARGEST = "all rows but those of coverage", "rows that are the largest of their table (without RegMix)"


def hold_out_table(folder: Path, only: str = "") -> list[str]:
    """Return a Markdown table of the shares of held-out rows inside the 95 % intervals, with the sum of all."""
    lines = [
        "| data, column of the largest rows | rows fitted | held out | mean error (in the fit) | law | run | forecast "
        "| factor | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    sums = {ALL: np.zeros((2, len(KINDS))), LARGEST: np.zeros((2, len(KINDS)))}  # rows inside, and rows, by kind
    for name, law, fitted, held_out, groups in hold_outs(folder):
        if only not in name:
            continue
        start = time.perf_counter()
        fit = fit_law(law, fitted, bootstraps=300, groups=groups, units=False)
        measured = held_out[law.target]
        shares = []
        for i, kind in enumerate(KINDS):
            intervals = fit.predict(held_out, kind=kind)
            held = [interval.contains(y) for interval, y in zip(intervals, measured, strict=True)]
            has_limits = all(interval.has_limits for interval in intervals)
            shares.append(f"{np.mean(held):.2f}" if has_limits else "–")
            if has_limits and not law.averaged:
                for total in (ALL, LARGEST)[: 1 if name.startswith("RegMix") else 2]:
                    sums[total][:, i] += sum(held), len(held)
        predicted = np.array([interval.value for interval in fit.predict(held_out)])
        error, own = float(np.mean(np.abs(predicted / measured - 1))), quality(fit)["mean_relative_error"]
        factor = "–" if fit.rehearsal is None or not fit.rehearsal.misses else f"{fit.rehearsal.factor:.2f}"
        seconds = f"{time.perf_counter() - start:.1f}"
        cells = [name, fit.rows, len(measured), f"{error:.2%} ({own:.2%})", *shares, factor, seconds]
        lines.append(f"| {' | '.join(map(str, cells))} |")
        print(lines[-1], flush=True)
    for total, (inside, counts) in sums.items():
        shares = [f"{number / count:.3f}" if count else "–" for number, count in zip(inside, counts, strict=True)]
        lines.append(f"| {total} | | {counts[0]:.0f} | | {' | '.join(shares)} | | |")
        print(lines[-1], flush=True)
    return lines


NOTES = """\
The rows with the largest compute (or size, C or N in the first column) are held out, a tenth of them or more, and the
law is fitted to the others with its own loss, and 300 bootstraps, or the delta method below ten rows per parameter.
`law`, `run` and `forecast` are the shares of the held-out rows inside these 95 % intervals; `factor` is how many times
as wide as a run's interval the worst rehearsal needed. The mean error is relative. The interval of the law is not one
for measured rows: it leaves out the noise of a run. pass@k has one row per model, the largest k, and the interval over
problems.

The last row leaves out RegMix, whose rows are new mixtures and no extrapolation: beyond the data the interval of a
run holds fewer than nine in ten rows, and that of a forecast about what it says. Single tables differ: on Porian's
long schedules (kaplan/standard/val), where the law itself fails, and on Chinchilla's largest sizes the forecast
misses too, as errors there are larger than in any rehearsal. The rule of the forecast (the worst rehearsal instead
of their mean, and any input outside the data) was chosen after a look at Chinchilla's and Porian's rows of this
table, so its share of these is not blind."""
