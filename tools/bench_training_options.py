#!/usr/bin/env python3
"""Measure what freezing, groups, a moving average and statistics cost. Prints one JSON line.

    python tools/bench_training_options.py --rounds 5

Every round takes one step of each arm in turn, so that a change of the machine's load meets all of them. Fields:
`plain_s`, the median seconds of a plain step, and for each arm `ratio`, the median over rounds of its seconds to those
of the plain step of the same round, and `cpu_ratio` of the CPU seconds of all threads. `counted` is the ratio of the
model FLOPs that the ledger counts.

    freeze       the embedding and the lower half of the blocks are frozen
    groups       norm scales without decay, the lower half of the blocks at a tenth of the rate
    ema          a moving average, updated in every step
    statistics   the pass over the batch that is made in every n-th step beside it: n steps take n + ratio plain ones
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from pathways_lite.host_memory import keep_freed_memory, runs_on_cpu_only

LAYERS, D_MODEL, SEQ_LEN, BATCH, VOCABULARY = 8, 256, 256, 8, 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="steps of each arm to time, after the first")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: at least 1 is needed")
    if runs_on_cpu_only():
        keep_freed_memory()
    print(json.dumps(measure(arguments.rounds)))


def measure(rounds: int) -> dict[str, Any]:
    """Time all arms in turn."""
    from pathways_lite.recipe import EMA, AdamW, ParameterGroup

    half = f"layers.0-{LAYERS // 2 - 1}"
    groups = (ParameterGroup(parameters="*.scale", weight_decay=0.0), ParameterGroup(parameters=half, rate=0.1))
    stages: dict[str, dict[str, Any]] = {
        "plain": {},
        "freeze": {"freeze": ("embedding", half)},
        "groups": {"optimizer": AdamW(groups=groups)},
        "ema": {"ema": EMA()},
        "statistics": {},
    }
    arms, counted = {}, {}
    for name, fields in stages.items():
        arms[name], counted[name] = prepare(fields, of_statistics=name == "statistics")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, run in arms.items():
            times[name].append(timed(run))
    plain = times.pop("plain")
    ratio = lambda arm, which: statistics.median(a[which] / p[which] for a, p in zip(arm, plain, strict=True))  # noqa: E731
    return {
        "plain_s": statistics.median(seconds for seconds, _ in plain),
        **{
            name: {
                "ratio": round(ratio(arm, 0), 3),
                "cpu_ratio": round(ratio(arm, 1), 3),
                "counted": round(counted[name] / counted["plain"], 3),
            }
            for name, arm in times.items()
        },
        "shape": f"{LAYERS} layers of {D_MODEL}, {BATCH} x {SEQ_LEN} tokens, vocabulary {VOCABULARY}, float32",
        "machine": f"{platform.system()} {platform.machine()}, {platform.python_version()}",
        "command": shlex.join(sys.argv),
    }


def prepare(fields: dict[str, Any], *, of_statistics: bool) -> tuple[Callable[[], None], int]:
    """Return a function that takes one step, or computes its statistics, and waits for it; and FLOPs per token."""
    import jax
    import numpy as np

    from pathways_kernels.attention import Spans
    from pathways_lite.batch import Batch
    from pathways_lite.recipe import AdamW, Data, Model, Recipe, Stage
    from pathways_lite.training.components import Components
    from pathways_lite.training.stage import StageSpec

    model = Model(
        d_model=D_MODEL, n_layers=LAYERS, n_heads=8, head_dim=D_MODEL // 8, d_ff=688, vocab_size=VOCABULARY,
        block="serial", dtype="float32",
    )  # fmt: skip
    options = {"optimizer": AdamW(), **fields}
    stage = Stage(
        model=model, data=Data(corpus="none", seq_len=SEQ_LEN), batch_size=BATCH, budget="100 steps", **options
    )
    components = Components(StageSpec(Recipe(name="bench", stages=(stage,)), 0), jax.devices()[:1])
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, SEQ_LEN + 1), dtype=np.int32)
    positions = np.tile(np.arange(SEQ_LEN, dtype=np.int32), (BATCH, 1))
    batch = jax.device_put(
        Batch(
            tokens[:, :-1], tokens[:, 1:], np.ones((BATCH, SEQ_LEN), np.float32), positions,
            Spans(np.zeros_like(positions), positions + 1), np.zeros(BATCH, np.int32), np.zeros((BATCH, 2), np.uint32),
        )
    )  # fmt: skip
    clock, state = jax.device_put(components.timeline.clock(0)), components.fresh_state()
    compiled = components.compile_statistics(BATCH, SEQ_LEN) if of_statistics else components.compile_step(BATCH)

    def run() -> None:
        nonlocal state
        if of_statistics:
            jax.block_until_ready(compiled(state, batch, clock))
        else:
            state, metrics = compiled(state, batch, clock)
            jax.block_until_ready((state, metrics))

    run()
    return run, components.timeline.flops_per_token


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Return wall-clock seconds, and CPU seconds of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
