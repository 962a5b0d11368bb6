"""Fit published scaling laws to public measurements, and compare the results with the published ones.

    python tools/reproduce_scaling.py FOLDER [--only WORD] [--out docs/results/scaling.md]
    python tools/reproduce_scaling.py FOLDER --hold-outs docs/results/scaling_hold_outs.md

FOLDER has one folder per source, as `pathways_lite.scaling.measurements` reads them: chinchilla_epoch
(epoch-research/analyzing-chinchilla), gadre (mlfoundations/scaling), gemstones (mcleish7/gemstone-scaling-laws),
multi_power_law (thu-yao-01-luo/MultiPowerLaw), tissue, porian (formll/resolving-scaling-law-discrepancies),
data_constrained (huggingface/datablations), vocabulary (sail-sg/scaling-with-vocab), monkeys (RylanSchaeffer), routing
(google-deepmind/scaling_laws_for_routing), sft (linhaowei1/SLD), step_law (step-law/steplaw), regmix (sail-sg/regmix),
broken_neural_scaling (ethancaballero/broken_neural_scaling_laws).
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

from pathways_lite.scaling import hold_outs, measurements
from pathways_lite.scaling.fit import Fit
from pathways_lite.scaling.isoflop import fit_optima, isoflop_optima, variable_projection
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.laws.annealing import MULTI_POWER, TISSUE
from pathways_lite.scaling.laws.broken import BROKEN
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.laws.downstream import RECTIFIED
from pathways_lite.scaling.laws.hyperparameters import STEP_BATCH, STEP_LEARNING_RATE
from pathways_lite.scaling.laws.hyperparameters import step_law as step_law_advice
from pathways_lite.scaling.laws.inference import COVERAGE
from pathways_lite.scaling.laws.mixing import fit_regmix as regmix_fit
from pathways_lite.scaling.laws.mixing import mixing_law, predict_regmix
from pathways_lite.scaling.laws.overtraining import DOWNSTREAM_ERROR, OVERTRAINING
from pathways_lite.scaling.laws.power import POWER_FLOOR
from pathways_lite.scaling.laws.repetition import DATA_CONSTRAINED, DATA_CONSTRAINED_C4, optimal_allocation
from pathways_lite.scaling.laws.sparse import ROUTED
from pathways_lite.scaling.laws.vocabulary import VOCABULARY, by_derivative, by_isoflop, by_loss
from pathways_lite.scaling.losses import Huber
from pathways_lite.scaling.solver import Solution, objective_of, predict, refit_weighted, solve
from pathways_lite.scaling.table import Table


class Line(NamedTuple):
    """One comparison with a published number; `objective` is a sum of losses, or empty."""

    what: str
    published: str
    ours: str
    objective: str
    good: bool


def near(what: str, published: float, ours: float, tolerance: float, *, objective: float | None = None) -> Line:
    """Compare a number that must be within `tolerance`."""
    objective_text = "" if objective is None else f"{objective:.9g}"
    return Line(what, f"{published:.6g}", f"{ours:.6g}", objective_text, abs(ours - published) <= tolerance)


def at_most(what: str, limit: float, objective: float, ours: str = "") -> Line:
    """Compare an objective that must not exceed a published one (to its printed digits)."""
    return Line(what, f"≤ {limit:.9g}", ours, f"{objective:.10g}", objective <= limit)


def values(solution: Solution | Fit) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in solution.values.items())


# ---- comparisons, one function per source ----


def chinchilla(folder: Path) -> Iterator[Line]:
    """Besiroglu et al.: optimum, standard errors."""
    table = measurements.read_chinchilla_epoch(folder)
    solution = solve(CHINCHILLA, table)
    yield at_most(
        f"Chinchilla, 20 centered starts ({solution.reached} reach it)", 0.0010183, solution.objective, values(solution)
    )
    rng = np.random.RandomState(42)  # the notebook's generator, so that resamples are the same row by row
    weights = np.array([np.bincount(rng.choice(240, 240), minlength=240) for _ in range(4000)])
    samples = refit_weighted(solution, table, weights)
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
    solution = solve(CHINCHILLA, measurements.read_chinchilla_epoch(folder), starts=starts)
    yield at_most(f"Chinchilla, grid of 4500 starts ({solution.reached} reach it)", 0.0010183, solution.objective)


def chinchilla_others(folder: Path) -> Iterator[Line]:
    """Least absolute deviations, variable projection."""
    table = measurements.read_chinchilla_epoch(folder)
    lad = solve(CHINCHILLA, table, loss=Huber(5e-9))
    total = lad.objective / 5e-9
    what = "Chinchilla, LAD limit (sum of absolute residuals)"
    yield Line(what, "≤ 1.1296", values(lad), f"{total:.6g}", total <= 1.1296)
    projected = variable_projection(table["N"], table["D"], table["L"])
    yield near("variable projection, rmse of raw loss", 0.01862, projected["rmse"], 1e-5)
    for name, published in (("alpha", 0.3576), ("beta", 0.4276), ("E", 1.8828)):
        yield near(f"variable projection, {name}", published, projected[name], 2e-3)


def gadre(folder: Path) -> Iterator[Line]:
    """Gadre et al.: constants, held-out errors, golden predictions."""
    constants = dict(zip(("c4_original", "rpj", "rw_original"), OVERTRAINING.published, strict=True))
    errors = dict(zip(constants, DOWNSTREAM_ERROR.published, strict=True))
    for dataset, (name, published) in constants.items():
        table = measurements.read_gadre(folder, dataset)
        of_loss, of_error = measurements.gadre_fit_masks(table)
        loss = solve(OVERTRAINING, measurements.select_rows(table, of_loss))
        digits = (5e-5, 5e-3, 5e-3, 5e-5)
        for parameter, known, digit in zip(OVERTRAINING.names, published, digits, strict=True):
            yield near(f"over-training, {name}, {parameter}", known, loss.values[parameter], 1.01 * digit)
        error = solve(DOWNSTREAM_ERROR, measurements.select_rows(table, of_error))
        for parameter, known in zip(DOWNSTREAM_ERROR.names, errors[dataset][1], strict=True):
            yield near(f"downstream error, {name}, {parameter}", known, error.values[parameter], 1.01e-4)
        if dataset == "rpj":
            yield from _gadre_held_out(table, loss, error)


def _gadre_held_out(table: Table, loss: Solution, error: Solution) -> Iterator[Line]:
    for name, N, M, of_loss, of_error in (
        ("1.4B, M=640", 1.4e9, 640, 0.7103, 3.6365),
        ("6.9B, M=20", 6.9e9, 20, 0.7320, 0.0464),
    ):
        row = measurements.select_rows(table, (np.abs(table["N"] / N - 1) < 0.1) & (np.round(table["M"]) == M))
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
        table = measurements.read_isoflops(folder, config)
        optima = isoflop_optima(table["C"], table["N"], table["L"], akima=True)
        yield near(f"N*(C) exponent, {config}", published, fit_optima(optima).exponent, 0.005)


def gemstones(folder: Path) -> Iterator[Line]:
    """McLeish et al.: objectives of the published fits."""
    for name, published, embeddings in (
        ("hot", 0.0019816128, True), ("cool_end", 0.0019640864, True), ("cool_begin", 0.0019515326, True),
        ("hot_sampled_like_chinchilla", 0.0002173794, True), ("slim_chinchilla", 0.0001204363, True),
        ("hot", 0.0017466699, False), ("cool_end", 0.001713242, False), ("cool_begin", 0.0017125887, False),
    ):  # fmt: skip
        solution = solve(CHINCHILLA, measurements.read_gemstones(folder, name, embeddings=embeddings))
        what = f"Gemstones, {name}" + ("" if embeddings else ", N without embeddings")
        yield at_most(what, published * (1 + 1e-6), solution.objective, values(solution))


def tissue(folder: Path) -> Iterator[Line]:
    """Tissue et al."""
    table = measurements.read_tissue(folder)
    solution = solve(TISSUE, table)
    residual = solution.predict(table) - table["L"]
    r2 = 1 - float(np.sum(residual**2) / np.sum((table["L"] - table["L"].mean()) ** 2))
    yield Line(
        "annealing, R² of 40 points",
        "≥ 0.9996",
        f"{r2:.6f} ({values(solution)})",
        f"{solution.objective:.6g}",
        r2 >= 0.9996,
    )


def multi_power(folder: Path) -> Iterator[Line]:
    """Luo et al.: the training objective's true optimum, unseen schedules."""
    for size, known in ((25, 1.384e-4), (100, 2.1335e-5)):
        trained = lambda groups, size=size: measurements.read_multi_power(  # noqa: E731
            folder, size, measurements.MULTI_POWER_TRAINED, groups
        )
        rough = solve(MULTI_POWER, trained(60), starts=8)
        start = {name: np.array([value]) for name, value in rough.values.items()}
        solution = solve(MULTI_POWER, trained(600), starts=start)
        exact = objective_of(MULTI_POWER, solution.values, trained(None))
        yield at_most(f"multi-power law, {size}M, every step counted", known, exact, values(solution))
        table = measurements.read_multi_power(folder, size, measurements.MULTI_POWER_HELD_OUT, 2000)
        error = np.abs(predict(MULTI_POWER, solution.values, table) / table["L"] - 1)
        mean, worst = float(error.mean()), float(error.max())
        what, ours = f"{size}M, unseen schedules: mean and worst relative error", f"{mean:.5f}, {worst:.5f}"
        yield Line(what, "≤ 0.0025, 0.008", ours, "", mean <= 0.0025 and worst <= 0.008)


def data_constrained(folder: Path) -> Iterator[Line]:
    """Muennighoff et al.: the global optimum is not the published one."""
    table = measurements.read_data_constrained(folder)
    published = dict(zip(DATA_CONSTRAINED_C4.names, DATA_CONSTRAINED_C4.published[0][1], strict=True))
    point = predict(DATA_CONSTRAINED_C4, published, {"N": [6.34e9, 8.67e9], "D": [242e9, 178e9], "U": [25e9, 25e9]})
    yield near("data-constrained, L(6.34B, 242B, U=25B)", 2.2256440889984477, float(point[0]), 1e-6)
    yield near("data-constrained, L(8.67B, 178B, U=25B)", 2.2269634075087867, float(point[1]), 1e-6)
    best = optimal_allocation(published, 1e22, 25e9)
    yield near("data-constrained, best N at 1e22, U=25B", 7.0224e9, best["N"], 7e6)
    yield near("data-constrained, epochs there", 9.493, best["epochs"], 1e-2)
    before = objective_of(DATA_CONSTRAINED_C4, published, table)
    yield near("data-constrained, objective at published R*", 0.0158259352, before, 1e-8, objective=before)
    solution = solve(DATA_CONSTRAINED_C4, table)
    yield at_most("data-constrained, global optimum", 0.0158047, solution.objective, values(solution))
    free = solve(DATA_CONSTRAINED, table)
    yield at_most("data-constrained, all constants free", solution.objective, free.objective, values(free))


def vocabulary(folder: Path) -> Iterator[Line]:
    """Tao et al.: predictions for 7B, and the parametric fit."""
    for name, Nv, V, approach in (
        ("IsoFLOP", 255.1, 62280, by_isoflop),
        ("derivative", 276.3, 67450, by_derivative),
        ("parametric", 243.9, 59547, by_loss),
    ):
        ours = approach(7e9, 4096)
        yield near(f"vocabulary, {name}, Nv of 7B (millions)", Nv, ours["Nv"] / 1e6, 0.06)
        yield near(f"vocabulary, {name}, V of 7B", V, ours["V"], 6)
    table = measurements.read_vocabulary(folder)
    known = dict(zip(VOCABULARY.names, VOCABULARY.published[0][1], strict=True))
    yield near("vocabulary, objective at published values", 0.0622917, objective_of(VOCABULARY, known, table), 1e-6)
    solution = solve(VOCABULARY, table)
    yield at_most("vocabulary, parametric fit", 0.0622917, solution.objective, values(solution))


def monkeys(folder: Path) -> Iterator[Line]:
    """Coverage of repeated samples."""
    for (name, (a, b)), model in zip(COVERAGE.published, ("Pythia 12B", "Pythia 2.8B", "Pythia 1B"), strict=True):
        solution = solve(COVERAGE, measurements.read_coverage(folder, model))
        yield near(f"coverage, {name}, b", b, solution.values["b"], 0.002, objective=solution.objective)
        yield near(f"coverage, {name}, a", a, solution.values["a"], 0.01)


def routed(folder: Path) -> Iterator[Line]:
    """Clark et al.: the bilinear law of three routers, least squares of log10 L."""
    known = {"S-Base": (-0.0838, -0.1234, 0.0104, 1.1216), "RL-R": (-0.0835, -0.1279, 0.0117, 1.1143),
             "Hash": (-0.0887, -0.1464, 0.0134, 1.173)}  # fmt: skip
    for router, constants in known.items():
        table = measurements.read_routed(folder, router)
        solution = solve(ROUTED, table)
        for name, value in zip("abcd", constants, strict=True):
            yield near(f"routed, {router}, {name}", value, solution.values[name], 1e-4, objective=solution.objective)
        rmse = float(np.sqrt(np.mean(np.log10(solution.predict(table) / table["L"]) ** 2)))
        yield near(f"routed, {router}, rmse of log10 L", 0.003, rmse, 5e-4)


def fine_tuning(folder: Path) -> Iterator[Line]:
    """Lin et al.: the largest number of examples held out, rectified law against power law with a floor."""
    better = groups = 0
    for task, published in (("flan", (0.026, 0.198)), ("wikiword", (0.015, 0.040))):
        tables = list(measurements.read_fine_tuning(folder, task).values())
        rectified = [_last_error(RECTIFIED, table) for table in tables]
        plain = [_last_error(POWER_FLOOR, {"x": table["D_examples"], "y": table["L"]}) for table in tables]
        for name, errors, known in zip(("rectified", "power law"), (rectified, plain), published, strict=True):
            yield at_most(f"fine-tuning, {task}, {name}, mean error held out", known, float(np.mean(errors)))
        better += sum(
            rectified_error < plain_error for rectified_error, plain_error in zip(rectified, plain, strict=True)
        )
        groups += len(tables)
    what = "fine-tuning, models for which the rectified law is better"
    yield Line(what, "most", f"{better} of {groups}", "", better > 0.8 * groups)


def _last_error(law: Law, table: Table) -> float:
    """Return the error at the last row of the law fitted to all other rows."""
    solution = solve(law, {name: column[:-1] for name, column in table.items()})
    return abs(float(solution.predict(table)[-1]) - float(table[law.target][-1]))


def broken(folder: Path) -> Iterator[Line]:
    """Caballero et al.: four-digit addition, beyond a sharp break."""
    solution = solve(BROKEN, measurements.read_addition(folder, "train"), starts=200)
    for split, published in (("train", 0.000598), ("extrapolate", 0.0109)):
        table = measurements.read_addition(folder, split)
        rmse = float(np.sqrt(np.mean(np.log(solution.predict(table) / table["y"]) ** 2)))
        shown = values(solution) if split == "train" else ""
        yield at_most(f"broken law, addition, rmse of ln y, {split}", published * 1.01, rmse, shown)


def step_law(folder: Path) -> Iterator[Line]:
    """Li et al.: a fit to the public runs, and the quality of the published law's advice on them."""
    table = measurements.read_step_law(folder)
    near_best = measurements.select_near_best(table)
    lr, batch = solve(STEP_LEARNING_RATE, near_best), solve(STEP_BATCH, near_best)
    for name, published in (("c", 77.7), ("a", -0.766), ("b", 0.197)):
        yield near(
            f"Step Law on the public runs, learning rate, {name}", published, lr.values[name], 1e-3 * max(1, published)
        )
    for name, published in (("c", 0.2085), ("b", 0.6125)):
        yield near(f"Step Law on the public runs, batch, {name}", published, batch.values[name], 1e-3)
    gaps = []
    for N, D in np.unique(np.stack([table["N"], table["D"]], axis=1), axis=0):
        cell = measurements.select_rows(table, (table["N"] == N) & (table["D"] == D))
        advice = step_law_advice(N, D)
        away = np.log(cell["lr"] / advice["lr"]) ** 2 + np.log(cell["B"] / advice["B"]) ** 2
        gaps.append(float(cell["L"][np.argmin(away)] / cell["L"].min() - 1))
    yield near(
        "Step Law as published, loss above the best of the grid, median, %", 0.067, 100 * float(np.median(gaps)), 0.002
    )
    yield near("Step Law as published, loss above the best of the grid, worst, %", 0.31, 100 * max(gaps), 0.01)


def regmix(folder: Path) -> Iterator[Line]:
    """Liu et al.: rank correlation of predicted and measured Pile-CC loss over 256 unseen mixtures."""
    from scipy import stats

    (shares, losses), (unseen, measured) = (measurements.read_regmix(folder, split) for split in ("train", "test"))
    linear = predict_regmix(regmix_fit(shares, losses), unseen)
    yield near("RegMix, 1M, Spearman, linear", 0.9021, float(stats.spearmanr(linear, measured).statistic), 5e-4)
    names = tuple(f"r{i}" for i in range(shares.shape[1]))
    solution = solve(mixing_law(names), {**dict(zip(names, shares.T, strict=True)), "L": losses})
    exponential = solution.predict(dict(zip(names, unseen.T, strict=True)))
    yield near(
        "RegMix, 1M, Spearman, exponential", 0.9637, float(stats.spearmanr(exponential, measured).statistic), 5e-3
    )


COMPARISONS: tuple[Callable[[Path], Iterator[Line]], ...] = (
    chinchilla, chinchilla_grid, chinchilla_others, gadre, porian, gemstones, tissue, multi_power, data_constrained,
    vocabulary, monkeys, routed, fine_tuning, broken, step_law, regmix,
)  # fmt: skip


def table_of(folder: Path, only: str) -> tuple[list[str], bool]:
    """Run the comparisons. Returns them as a Markdown table, and whether all of them are good."""
    lines = ["| what | published | ours | objective | s | |", "|---|---|---|---|---|---|"]
    good = True
    for compare in COMPARISONS:
        if only not in compare.__name__:
            continue
        start, cpu = time.perf_counter(), time.process_time()
        compared = list(compare(folder))
        spent = f"{time.perf_counter() - start:.1f} ({time.process_time() - cpu:.1f} of CPU)"
        for i, line in enumerate(compared):
            mark = "yes" if line.good else "**no**"
            text = (
                f"| {line.what} | {line.published} | {line.ours} | {line.objective} | {'' if i else spent} | {mark} |"
            )
            lines.append(text)
            print(text, flush=True)
        good &= all(line.good for line in compared)
    return lines, good


NOTES = """\
Objectives are sums. "≤" is the published objective or, if that is not an optimum, the best known one; for held-out
errors it is the published error. The multi-power law is fitted to schedules in 60 groups of steps, then in 600, and is
evaluated with every step counted."""


def write_hold_outs(folder: Path, only: str, out: Path) -> None:
    """Write the table of `pathways_lite.scaling.hold_outs`."""
    lines = hold_outs.hold_out_table(folder, only)
    header = (
        "# Intervals of held-out rows\n\n`python tools/reproduce_scaling.py FOLDER --hold-outs "
        f"docs/results/scaling_hold_outs.md`\n\n{hold_outs.NOTES}\n\n"
    )
    out.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the measurements are")
    parser.add_argument("--only", default="", help="run only the comparisons whose name contains this")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    parser.add_argument("--hold-outs", type=Path, help="write the intervals of held-out rows to this file, and no more")
    arguments = parser.parse_args()
    start = time.perf_counter()
    if arguments.hold_outs:
        write_hold_outs(arguments.folder, arguments.only, arguments.hold_outs)
        return
    lines, good = table_of(arguments.folder, arguments.only)
    print(f"{time.perf_counter() - start:.0f} s in all; {'all good' if good else 'NOT all good'}")
    if arguments.out:
        load = os.getloadavg()[0]
        header = (
            "# Scaling laws refitted\n\n`python tools/reproduce_scaling.py FOLDER --out docs/results/scaling.md` on "
            f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f} at the end (with other work): "
            f"{time.perf_counter() - start:.0f} s. Seconds are of a whole source, with compilation.\n\n{NOTES}\n\n"
        )
        arguments.out.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
