"""Fit the laws of the literature to its public measurements, and compare with what was published.

    python tools/reproduce_scaling.py FOLDER [--only WORD] [--out docs/results/scaling.md]

FOLDER has one folder per source, as `pathways_lite.scaling.measurements` reads them: chinchilla_epoch
(epoch-research/analyzing-chinchilla), gadre (mlfoundations/scaling), gemstones (mcleish7/gemstone-scaling-laws),
multi_power_law (thu-yao-01-luo/MultiPowerLaw), tissue, porian (formll/resolving-scaling-law-discrepancies),
data_constrained (huggingface/datablations), vocabulary (sail-sg/scaling-with-vocab), monkeys (RylanSchaeffer).
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from pathways_lite.scaling import measurements
from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.fitting import Solution, objective_of, predict, resolve_weighted, solve
from pathways_lite.scaling.isoflop import fit_optima, isoflop_optima, variable_projection
from pathways_lite.scaling.laws.annealing import MULTI_POWER, TISSUE
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.laws.inference import COVERAGE
from pathways_lite.scaling.laws.overtraining import DOWNSTREAM_ERROR, OVERTRAINING
from pathways_lite.scaling.laws.repetition import DATA_CONSTRAINED, optimal_at
from pathways_lite.scaling.laws.vocabulary import VOCABULARY, by_derivative, by_isoflop
from pathways_lite.scaling.losses import Huber
from pathways_lite.scaling.table import Table


class Line(NamedTuple):
    """One comparison; `objective` and `limit` are sums of losses where the comparison is of them."""

    what: str
    published: str
    ours: str
    objective: str
    good: bool


def near(what: str, published: float, ours: float, tolerance: float, *, objective: float | None = None) -> Line:
    """A number that has to be within `tolerance`."""
    shown = "" if objective is None else f"{objective:.9g}"
    return Line(what, f"{published:.6g}", f"{ours:.6g}", shown, abs(ours - published) <= tolerance)


def at_most(what: str, limit: float, objective: float, ours: str = "") -> Line:
    """An objective that has to be at or below a published one (to the digits that it is printed with)."""
    return Line(what, f"≤ {limit:.9g}", ours, f"{objective:.10g}", objective <= limit)


def values(solution: Solution | Fit) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in solution.values.items())


# ---- what is compared ----


def chinchilla(folder: Path) -> Iterator[Line]:
    """Besiroglu et al.: optimum, standard errors."""
    table = measurements.chinchilla_epoch(folder)
    found = solve(CHINCHILLA, table)
    yield at_most(
        f"Chinchilla, 20 centred starts ({found.reached} reach it)", 0.0010183, found.objective, values(found)
    )
    rng = np.random.RandomState(42)  # the notebook's generator, so that resamples are the same row by row
    weights = np.array([np.bincount(rng.choice(240, 240), minlength=240) for _ in range(4000)])
    samples = resolve_weighted(found, table, weights)
    for name, published in zip(CHINCHILLA.names, (124.522, 1293.284, 0.02566, 0.0154, 0.0206), strict=True):
        yield near(f"standard error of {name}, 4000 bootstraps", published, float(samples[name].std()), 0.1 * published)
    first = [samples[name][0] for name in CHINCHILLA.names]
    for name, published, ours in zip(
        CHINCHILLA.names, (349.556, 2356.248, 1.79333, 0.328633, 0.371855), first, strict=True
    ):
        yield near(f"first resample's {name}", published, float(ours), 5e-5 * published)


def chinchilla_grid(folder: Path) -> Iterator[Line]:
    """The 4500 starts of Hoffmann et al."""
    axes = (
        np.arange(0, 26, 5),
        np.arange(0, 26, 5),
        np.arange(-1, 1.1, 0.5),
        np.arange(0, 2.1, 0.5),
        np.arange(0, 2.1, 0.5),
    )
    a, b, e, alpha, beta = np.array(list(itertools.product(*axes))).T
    starts = {"A": np.exp(a), "B": np.exp(b), "E": np.exp(e), "alpha": alpha, "beta": beta}
    found = solve(CHINCHILLA, measurements.chinchilla_epoch(folder), starts=starts)
    yield at_most(f"Chinchilla, grid of 4500 starts ({found.reached} reach it)", 0.0010183, found.objective)


def chinchilla_others(folder: Path) -> Iterator[Line]:
    """Least absolute deviations, variable projection."""
    table = measurements.chinchilla_epoch(folder)
    lad = solve(CHINCHILLA, table, loss=Huber(5e-9))
    total = lad.objective / 5e-9
    yield Line("Chinchilla, LAD limit (sum of |residuals|)", "≤ 1.1296", values(lad), f"{total:.6g}", total <= 1.1296)
    projected = variable_projection(table["N"], table["D"], table["L"])
    yield near("variable projection, rmse of raw loss", 0.01862, projected["rmse"], 1e-5)
    for name, published in (("alpha", 0.3576), ("beta", 0.4276), ("E", 1.8828)):
        yield near(f"variable projection, {name}", published, projected[name], 2e-3)


def gadre(folder: Path) -> Iterator[Line]:
    """Gadre et al.: constants, held-out errors, golden predictions."""
    constants = dict(zip(("c4_original", "rpj", "rw_original"), OVERTRAINING.published, strict=True))
    errors = dict(zip(constants, DOWNSTREAM_ERROR.published, strict=True))
    for dataset, (name, published) in constants.items():
        table = measurements.gadre(folder, dataset)
        of_loss, of_error = measurements.gadre_fitted(table)
        loss = solve(OVERTRAINING, measurements.keep(table, of_loss))
        digits = (5e-5, 5e-3, 5e-3, 5e-5)
        for parameter, known, digit in zip(OVERTRAINING.names, published, digits, strict=True):
            yield near(f"over-training, {name}, {parameter}", known, loss.values[parameter], 1.01 * digit)
        error = solve(DOWNSTREAM_ERROR, measurements.keep(table, of_error))
        for parameter, known in zip(DOWNSTREAM_ERROR.names, errors[dataset][1], strict=True):
            yield near(f"downstream error, {name}, {parameter}", known, error.values[parameter], 1.01e-4)
        if dataset == "rpj":
            yield from _gadre_held_out(table, loss, error)


def _gadre_held_out(table: Table, loss: Solution, error: Solution) -> Iterator[Line]:
    for name, N, M, of_loss, of_error in (
        ("1.4B, M=640", 1.4e9, 640, 0.7103, 3.6365),
        ("6.9B, M=20", 6.9e9, 20, 0.7320, 0.0464),
    ):
        row = measurements.keep(table, (np.abs(table["N"] / N - 1) < 0.1) & (np.round(table["M"]) == M))
        predicted = float(loss.predict(row)[0])
        yield near(f"RedPajama {name}: error of loss, %", of_loss, 100 * abs(predicted / float(row["L"][0]) - 1), 6e-4)
        missed = float(error.predict({"L": np.array([predicted])})[0]) / float(row["error"][0]) - 1
        yield near(f"RedPajama {name}: error of downstream error, %", of_error, 100 * abs(missed), 6e-3)


def porian(folder: Path) -> Iterator[Line]:
    """Porian et al.: N*(C) exponents of five accounts of compute."""
    known = (("long/kaplan/kaplan/train", 0.8338), ("long/kaplan/standard/val", 0.7009),
             ("short/kaplan/standard/val", 0.6035), ("short/chinchilla/standard/val", 0.5714))  # fmt: skip
    for config, published in (
        *((f"rw/base/{name}", value) for name, value in known),
        ("rw/tuned/short/const/standard/val", 0.4970),
    ):
        table = measurements.isoflops(folder, config)
        optima = isoflop_optima(table["C"], table["N"], table["L"], akima=True)
        yield near(f"N*(C) exponent, {config}", published, fit_optima(optima).exponent, 0.005)


def gemstones(folder: Path) -> Iterator[Line]:
    """McLeish et al.: objectives of the published fits."""
    for name, published in (("hot", 0.0019816128), ("cool_end", 0.0019640864), ("cool_begin", 0.0019515326),
                            ("hot_sampled_like_chinchilla", 0.0002173794),
                            ("slim_chinchilla", 0.0001204363)):  # fmt: skip
        found = solve(CHINCHILLA, measurements.gemstones(folder, name))
        yield at_most(f"Gemstones, {name}", published * (1 + 1e-6), found.objective, values(found))


def tissue(folder: Path) -> Iterator[Line]:
    """Tissue et al."""
    table = measurements.tissue(folder)
    found = solve(TISSUE, table)
    residual = found.predict(table) - table["L"]
    r2 = 1 - float(np.sum(residual**2) / np.sum((table["L"] - table["L"].mean()) ** 2))
    yield Line(
        "annealing, R² of 40 points", "≥ 0.9996", f"{r2:.6f} ({values(found)})", f"{found.objective:.6g}", r2 >= 0.9996
    )


def multi_power(folder: Path) -> Iterator[Line]:
    """Luo et al.: the training objective's true optimum, unseen schedules."""
    for size, known in ((25, 1.384e-4), (100, 2.1335e-5)):
        trained = lambda pieces, size=size: measurements.multi_power(  # noqa: E731
            folder, size, measurements.MULTI_POWER_TRAINED, pieces
        )
        rough = solve(MULTI_POWER, trained(60), starts=8)
        start = {name: np.array([value]) for name, value in rough.values.items()}
        found = solve(MULTI_POWER, trained(600), starts=start)
        exact = objective_of(MULTI_POWER, found.values, trained(None))
        yield at_most(f"multi-power law, {size}M, every step counted", known, exact, values(found))
        table = measurements.multi_power(folder, size, measurements.MULTI_POWER_HELD_OUT, 2000)
        error = np.abs(predict(MULTI_POWER, found.values, table) / table["L"] - 1)
        mean, worst = float(error.mean()), float(error.max())
        what, ours = f"{size}M, unseen schedules: mean and worst relative error", f"{mean:.5f}, {worst:.5f}"
        yield Line(what, "≤ 0.0025, 0.008", ours, "", mean <= 0.0025 and worst <= 0.008)


def data_constrained(folder: Path) -> Iterator[Line]:
    """Muennighoff et al.: the global optimum is not the published one."""
    table = measurements.data_constrained(folder)
    published = dict(zip(DATA_CONSTRAINED.names, DATA_CONSTRAINED.published[0][1], strict=True))
    point = predict(DATA_CONSTRAINED, published, {"N": [6.34e9, 8.67e9], "D": [242e9, 178e9], "U": [25e9, 25e9]})
    yield near("data-constrained, L(6.34B, 242B, U=25B)", 2.2256440889984477, float(point[0]), 1e-6)
    yield near("data-constrained, L(8.67B, 178B, U=25B)", 2.2269634075087867, float(point[1]), 1e-6)
    best = optimal_at(published, 1e22, 25e9)
    yield near("data-constrained, best N at 1e22, U=25B", 7.0224e9, best["N"], 7e6)
    yield near("data-constrained, epochs there", 9.493, best["epochs"], 1e-2)
    before = objective_of(DATA_CONSTRAINED, published, table)
    yield near("data-constrained, objective at published R*", 0.0158259352, before, 1e-8, objective=before)
    found = solve(DATA_CONSTRAINED, table)
    yield at_most("data-constrained, global optimum", 0.0158047, found.objective, values(found))


def vocabulary(folder: Path) -> Iterator[Line]:
    """Tao et al.: predictions for 7B, and the parametric fit."""
    for name, published, ours in (("IsoFLOP", 255.1, by_isoflop(7e9)), ("derivative", 276.3, by_derivative(7e9))):
        yield near(f"vocabulary, {name}, Nv of 7B (millions)", published, ours["Nv"] / 1e6, 0.06)
    for name, published, ours in (
        ("IsoFLOP", 62280, by_isoflop(7e9, 4096)),
        ("derivative", 67450, by_derivative(7e9, 4096)),
    ):
        yield near(f"vocabulary, {name}, V of 7B", published, ours["V"], 6)
    table = measurements.vocabulary(folder)
    known = dict(zip(VOCABULARY.names, VOCABULARY.published[0][1], strict=True))
    yield near("vocabulary, objective at published values", 0.0622917, objective_of(VOCABULARY, known, table), 1e-6)
    found = solve(VOCABULARY, table)
    yield at_most("vocabulary, parametric fit", 0.0622917, found.objective, values(found))


def monkeys(folder: Path) -> Iterator[Line]:
    """Coverage of repeated samples."""
    for (name, (a, b)), model in zip(COVERAGE.published, ("Pythia 12B", "Pythia 2.8B", "Pythia 1B"), strict=True):
        found = solve(COVERAGE, measurements.coverage(folder, model))
        yield near(f"coverage, {name}, b", b, found.values["b"], 0.002, objective=found.objective)
        yield near(f"coverage, {name}, a", a, found.values["a"], 0.01)


PARTS: tuple[Callable[[Path], Iterator[Line]], ...] = (
    chinchilla, chinchilla_grid, chinchilla_others, gadre, porian, gemstones, tissue, multi_power, data_constrained,
    vocabulary, monkeys,
)  # fmt: skip


def table_of(folder: Path, only: str) -> tuple[list[str], bool]:
    """The comparisons as a Markdown table, and whether all of them are good."""
    lines = ["| what | published | ours | objective | s | |", "|---|---|---|---|---|---|"]
    good = True
    for part in PARTS:
        if only not in part.__name__:
            continue
        begun, cpu = time.perf_counter(), time.process_time()
        compared = list(part(folder))
        spent = f"{time.perf_counter() - begun:.1f} ({time.process_time() - cpu:.1f} of CPU)"
        for i, line in enumerate(compared):
            mark = "yes" if line.good else "**no**"
            text = (
                f"| {line.what} | {line.published} | {line.ours} | {line.objective} | {'' if i else spent} | {mark} |"
            )
            lines.append(text)
            print(text, flush=True)
        good &= all(line.good for line in compared)
    return lines, good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the measurements are")
    parser.add_argument("--only", default="", help="run only the parts whose name contains this")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    lines, good = table_of(arguments.folder, arguments.only)
    print(f"{time.perf_counter() - begun:.0f} s in all; {'all good' if good else 'NOT all good'}")
    if arguments.out:
        load = os.getloadavg()[0]
        header = (
            "# Scaling laws refitted\n\n`python tools/reproduce_scaling.py FOLDER --out docs/results/scaling.md` on "
            f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f} at the end (other work beside it): "
            f"{time.perf_counter() - begun:.0f} s. Seconds are of a whole part, compilation included.\n\n"
        )
        arguments.out.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
