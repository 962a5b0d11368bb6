#!/usr/bin/env python3
"""Measure the overhead of pruning in a train step. Prints one JSON line.

    python tools/bench_pruning.py --shape S
    python tools/bench_pruning.py --shape S --updating          masks change in every step, the most expensive case
    python tools/bench_pruning.py --optimizer adafactor --prune '{"sparsity": 0.5, "structure": {"kind": "n_m"}}'

Two steps that differ in pruning alone alternate on the same tokens, so that other load on the machine affects both.
`overhead` is the median over the rounds of (pruned - dense) / dense seconds; `overhead_by_cpu_time` is the same for the
CPU seconds of all threads, which other processes do not change.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
from typing import Any

import jax

from bench_reweighting import SHAPES, Stepping, setup_of
from pathways_lite.recipe import Prune, Recipe, apply_overrides
from pathways_lite.training.components import Components
from pathways_lite.training.stage import StageSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--optimizer", default="adamw", help="kind of the optimizer, or the whole optimizer as JSON")
    parser.add_argument("--prune", default='{"sparsity": 0.8}', help="as JSON, without its begin, end and every")
    parser.add_argument("--updating", action="store_true", help="the masks change in every step")
    parser.add_argument("--rows", type=int, help="sequences in a batch; default: the shape's")
    parser.add_argument("--rounds", type=int, default=10, help="of one step each, after the first")
    arguments = parser.parse_args()
    dense, pruned = (Stepping(components) for components in setups(arguments))
    rounds = [(dense.take(), pruned.take()) for _ in range(arguments.rounds)]
    print(json.dumps(row(arguments, rounds, dense.components.timeline.tokens_before(1))))


def setups(arguments: argparse.Namespace) -> tuple[Components, Components]:
    """Set up the stage without pruning and with it."""
    prune_config = Prune.model_validate_json(arguments.prune)
    timing = {"begin": 0.0, "end": 1.0, "every": 1} if arguments.updating else {"begin": 0.0, "end": 0.0}
    prune = Prune.model_validate({**dict(prune_config), **timing})
    stage = apply_overrides(setup_of(arguments.shape, None).stage, [f"optimizer={arguments.optimizer}"])
    if arguments.rows is not None:
        stage = stage.model_copy(update={"batch_size": arguments.rows})
    recipes = (Recipe(name="bench", stages=(stage.model_copy(update={"pruning": p}),)) for p in (None, prune))
    dense, pruned = (Components(StageSpec(recipe, 0)) for recipe in recipes)
    return dense, pruned


def row(arguments: argparse.Namespace, rounds: list[Any], tokens: int) -> dict[str, Any]:
    """Return the contents of the JSON line."""
    wall, cpu = (statistics.median((b[i] - a[i]) / a[i] for a, b in rounds) for i in (0, 1))
    return {
        "shape": arguments.shape,
        "tokens_per_step": tokens,
        "optimizer": arguments.optimizer,
        "prune": json.loads(arguments.prune),
        "updating": arguments.updating,
        "overhead": round(wall, 4),
        "overhead_by_cpu_time": round(cpu, 4),
        "dense_step_s": round(statistics.median(a[0] for a, _ in rounds), 3),
        "dense_step_cpu_s": round(statistics.median(a[1] for a, _ in rounds), 3),
        "rounds": len(rounds),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, {platform.machine()}",
        "jax": jax.__version__,
        "command": shlex.join(["python", *sys.argv]),
    }


if __name__ == "__main__":
    main()
