#!/usr/bin/env python3
"""Measure the overhead of sample weights in a train step. Prints one JSON line.

    python tools/bench_reweighting.py --shape S
    python tools/bench_reweighting.py --shape S --sample document --rounds 20

Two steps that differ in their weights alone alternate on the same tokens, so that other load on the machine affects
both. `overhead` is the median over the rounds of (weighted - plain) / plain seconds; `overhead_by_cpu_time`
the same of the CPU seconds of all threads, which other processes do not change. `overhead_flops` is XLA's own count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.recipe import AdamW, Data, Model, Recipe, Reweighting, Stage, Steps, apply_overrides
from pathways_lite.training.components import Components
from pathways_lite.training.stage import StageSpec

SHAPES = {
    # layers, d_model, heads, sequence, batch, vocabulary
    "XS": (2, 64, 2, 64, 8, 512),
    "S": (8, 256, 8, 256, 16, 8192),
    "M": (12, 768, 12, 512, 4, 32768),
}
DOCUMENTS = 4  # in a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--rule", default="lin_upper", help="kind of the rule, or the whole rule as JSON")
    parser.add_argument("--sample", choices=("row", "document", "token"), default="row")
    parser.add_argument("--rounds", type=int, default=10, help="of one step each, after the first")
    arguments = parser.parse_args()
    reweighting = apply_overrides(Reweighting(burn_in=Steps(n=0), sample=arguments.sample), [f"rule={arguments.rule}"])
    plain, weighted = (Stepping(setup_of(arguments.shape, method)) for method in (None, reweighting))
    rounds = [(plain.take(), weighted.take()) for _ in range(arguments.rounds)]
    print(json.dumps(row(arguments, rounds, (plain.flops, weighted.flops))))


def row(arguments: argparse.Namespace, rounds: list[Any], flops: tuple[float, float]) -> dict[str, Any]:
    """Return the contents of the JSON line."""
    wall, cpu = (statistics.median((b[i] - a[i]) / a[i] for a, b in rounds) for i in (0, 1))
    return {
        "shape": arguments.shape,
        "rule": arguments.rule,
        "sample": arguments.sample,
        "overhead": round(wall, 4),
        "overhead_by_cpu_time": round(cpu, 4),
        "overhead_flops": round(flops[1] / flops[0] - 1, 6),
        "plain_step_s": round(statistics.median(a[0] for a, _ in rounds), 3),
        "rounds": len(rounds),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, {platform.machine()}",
        "jax": jax.__version__,
        "command": shlex.join(["python", *sys.argv]),
    }


def setup_of(shape: str, method: Reweighting | None) -> Components:
    """Set up a GPT-2-like decoder with AdamW, as in `tools/bench_train.py`."""
    layers, width, heads, length, rows, vocabulary = SHAPES[shape]
    model = Model(
        d_model=width, n_layers=layers, n_heads=heads, head_dim=width // heads, d_ff=8 * width // 3 // 16 * 16,
        vocab_size=vocabulary, block="serial", dtype="float32",
    )  # fmt: skip
    stage = Stage(
        model=model, data=Data(corpus="none", seq_len=length), optimizer=AdamW(), batch_size=rows, budget="1000 steps",
        reweighting=method,
    )  # fmt: skip
    return Components(StageSpec(Recipe(name="bench", stages=(stage,)), 0))


class Stepping:
    """A compiled train step with its state and batch."""

    def __init__(self, components: Components) -> None:
        self.components, rows = components, components.timeline.sequences_at(0)
        self.compiled = components.compile_step(rows)
        self.flops = float(self.compiled.cost_analysis()["flops"])
        self.state = components.fresh_state()
        self.batch = components.layout.place_batch(random_batch(components, rows))
        self.number = 0
        self.take()

    def take(self) -> tuple[float, float]:
        """Take one step and return its wall-clock seconds and the CPU seconds of all threads."""
        clock, begin, cpu = self.components.timeline.clock(self.number), time.perf_counter(), time.process_time()
        self.state, metrics = self.compiled(self.state, self.batch, clock)
        jax.block_until_ready((self.state, metrics))
        self.number += 1
        return time.perf_counter() - begin, time.process_time() - cpu


def random_batch(components: Components, rows: int) -> Batch:
    """Make a batch of random tokens with several documents per row."""
    length, random = components.stage.data.seq_len, np.random.default_rng(0)
    tokens, targets = random.integers(0, components.stage.model.vocab_size, (2, rows, length)).astype(np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    start = positions // (length // DOCUMENTS) * (length // DOCUMENTS)
    ones, domain = np.ones((rows, length), np.float32), np.zeros(rows, np.int32)
    return Batch(
        tokens, targets, ones, positions - start, Spans(start, positions + 1), domain, np.zeros((rows, 2), np.uint32)
    )


if __name__ == "__main__":
    main()
