#!/usr/bin/env python3
"""Measure the coverage of a ladder's 95 % interval with ladders made from a known law and noise.

    python tools/ladder_coverage.py [--ladders 100] [--noise 0.006]

The rungs are those of configs/ladders/toy.py: three sizes, three token budgets, two seeds of the shorter two, and the
corner is predicted. The law is Chinchilla's with values close to that ladder's fit; `--noise` is the standard
deviation of log loss between seeds. One JSON line per loss function: the share of intervals that contain the law's
value at the corner, the root mean square of the prediction's relative error, and the intervals' median relative width.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from pathways_lite.scaling.fit import fit_law
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.losses import Huber, LeastSquares
from pathways_lite.scaling.solver import predict

TRUTH = {"A": 2.4e4, "B": 24.4, "E": 2.43, "alpha": 1.01, "beta": 0.224}
SIZES, SEEDS = (92_320, 183_024, 374_760), {100_224: 2, 200_320: 2, 400_512: 1}
CORNER = {"N": np.array([374_760.0]), "D": np.array([400_512.0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladders", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.006)
    parser.add_argument("--bootstraps", type=int, default=200)
    arguments = parser.parse_args()
    grid = [(N, D) for D, seeds in SEEDS.items() for N in SIZES for _ in range(seeds) if (N, D) != (374_760, 400_512)]
    N, D = (np.array(column, np.float64) for column in zip(*grid, strict=True))
    exact = predict(CHINCHILLA, TRUTH, {"N": N, "D": D})
    truth = float(predict(CHINCHILLA, TRUTH, CORNER)[0])
    for loss in (LeastSquares(), Huber()):
        random, results = np.random.default_rng(0), []
        for _ in range(arguments.ladders):
            table = {"N": N, "D": D, "L": exact * np.exp(random.normal(0, arguments.noise, len(N)))}
            groups = np.array([str(point) for point in grid])
            fit = fit_law(CHINCHILLA, table, loss=loss, bootstraps=arguments.bootstraps, groups=groups, units=False)
            best = fit.predict(CORNER)[0]
            results.append((best.contains(truth), best.value / truth - 1, best.high / best.low - 1))
        covered, errors, widths = map(np.array, zip(*results, strict=True))
        row = {"loss": str(loss), "ladders": len(results), "noise": arguments.noise, "held": round(covered.mean(), 3)}
        statistics = {
            "rms_error": round(float(np.sqrt((errors**2).mean())), 4),
            "width": round(float(np.median(widths)), 4),
        }
        print(json.dumps(row | statistics), flush=True)


if __name__ == "__main__":
    main()
