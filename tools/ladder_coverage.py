#!/usr/bin/env python3
"""Measure the coverage of a ladder's 95 % intervals with ladders made from a known law and noise.

    python tools/ladder_coverage.py [--ladders 1000] [--noise 0.006]

The rungs are those of configs/ladders/toy.py: three sizes, three token budgets, two seeds of the shorter two, and the
corner is predicted. The law is Chinchilla's with values close to that ladder's fit; `--noise` is the standard
deviation of log loss between seeds. One JSON line per loss function and method: the share of intervals of the law that
contain its value at the corner, the share of intervals of a run that contain a new run there, the root mean square of
the prediction's relative error, and the median and the 90th percentile of the law's interval's relative width. The
bootstrap draws the seeds of a rung together, in a fifth as many ladders.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np

from pathways_lite.scaling.fit import Fit, fit_law
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.losses import Huber, LeastSquares, Loss
from pathways_lite.scaling.solver import predict
from pathways_lite.scaling.uncertainty import Method

TRUTH = {"A": 2.4e4, "B": 24.4, "E": 2.43, "alpha": 1.01, "beta": 0.224}
SIZES, SEEDS = (92_320, 183_024, 374_760), {100_224: 2, 200_320: 2, 400_512: 1}
CORNER = {"N": np.array([374_760.0]), "D": np.array([400_512.0])}
GRID = [(N, D) for D, seeds in SEEDS.items() for N in SIZES for _ in range(seeds) if (N, D) != (374_760, 400_512)]
COMPARED: tuple[tuple[Loss, tuple[Method, ...]], ...] = (
    (LeastSquares(), ("profile", "delta")),
    (Huber(), ("delta",)),
    (LeastSquares(), ("bootstrap",)),
)


def measure(loss: Loss, methods: tuple[Method, ...], ladders: int, noise: float, bootstraps: int) -> list[dict]:
    """Return a row per method; all methods see the same ladders."""
    N, D = (np.array(column, np.float64) for column in zip(*GRID, strict=True))
    exact, truth = predict(CHINCHILLA, TRUTH, {"N": N, "D": D}), float(predict(CHINCHILLA, TRUTH, CORNER)[0])
    random = np.random.default_rng(0)
    results: dict[Method, list[tuple[bool, bool, float, float]]] = {method: [] for method in methods}
    groups = np.array([str(point) for point in GRID]) if "bootstrap" in methods else None
    for _ in range(ladders):
        table = {"N": N, "D": D, "L": exact * np.exp(random.normal(0, noise, len(N)))}
        run = truth * float(np.exp(random.normal(0, noise)))
        fit = fit_law(
            CHINCHILLA, table, loss=loss, method=methods[0], bootstraps=bootstraps, groups=groups, units=False
        )
        for method in methods:
            results[method].append(_outcome(replace(fit, method=method), truth, run))
    rows = []
    for method, outcomes in results.items():
        held, run_held, errors, widths = map(np.array, zip(*outcomes, strict=True))
        rows.append({
            "loss": str(loss), "method": method, "ladders": ladders, "noise": noise, "held": round(held.mean(), 3),
            "run_held": round(run_held.mean(), 3), "rms_error": round(float(np.sqrt((errors**2).mean())), 4),
            "width": round(float(np.median(widths)), 4), "width_90": round(float(np.quantile(widths, 0.9)), 4),
        })  # fmt: skip
    return rows


def _outcome(fit: Fit, truth: float, run: float) -> tuple[bool, bool, float, float]:
    """Return whether the law and a run are held, the error of the prediction, and the width of the law's interval."""
    of_law, of_run = (fit.predict(CORNER, kind=kind)[0] for kind in ("law", "run"))
    return of_law.contains(truth), of_run.contains(run), of_law.value / truth - 1, of_law.high / of_law.low - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladders", type=int, default=1000)
    parser.add_argument("--noise", type=float, default=0.006)
    parser.add_argument("--bootstraps", type=int, default=200)
    arguments = parser.parse_args()
    for loss, methods in COMPARED:
        ladders = max(1, arguments.ladders // 5) if "bootstrap" in methods else arguments.ladders
        for row in measure(loss, methods, ladders, arguments.noise, arguments.bootstraps):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
