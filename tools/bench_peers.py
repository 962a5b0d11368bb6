#!/usr/bin/env python3
"""Compare the speed of a train step with that of other stacks, each in its own process, in turn. JSON lines.

    git clone https://github.com/karpathy/nanoGPT          pip install torch numpy litgpt
    python tools/bench_peers.py --shape S --torch PYTHON --nanogpt nanoGPT --litgpt
    python tools/bench_peers.py --shape M --steps 3 --rounds 2 --torch PYTHON --nanogpt nanoGPT

PYTHON has PyTorch, and litgpt with `--litgpt`. The shapes are those of tools/bench_train.py, in float32, with clipping
and AdamW in all. pathways_lite, litgpt and plain JAX train a Llama block with a tied embedding; nanoGPT's block has
layer norms, learned positions and an MLP of 4 d_model, with as many parameters and matmul FLOPs. Every round runs all
stacks once, on all cores. Libraries differ in the CPUs that they are fast on, so the rates of a 2048^3 product are told
too: JAX's (`tools/bench_train.py`) and PyTorch's.

Fields of a line, the best over rounds:

    tokens_per_s         of the median step of the best round
    best_tokens_per_s    of the fastest step of all
    relative             tokens_per_s over that of the fastest other stack; of the others, over ours
    first_step_s         from the start of the process, imports and compiling included, to the end of the first step
    peak_rss_mb          peak of the process, the smallest over rounds
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from bench_train import SHAPES, mlp_width

PEERS = Path(__file__).parent / "peers"
OURS = "pathways_lite"


class Way(NamedTuple):
    """How a stack is run."""

    stack: str
    way: str
    python: str
    script: str


class Run(NamedTuple):
    """What one process measured."""

    seconds: list[float]
    first_step: float
    peak_rss_mb: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--steps", type=int, default=5, help="to time in each process, after the first")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each stack")
    parser.add_argument("--torch", help="a Python with PyTorch")
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT")
    parser.add_argument("--litgpt", action="store_true", help="the same Python has litgpt")
    arguments = parser.parse_args()
    if (arguments.nanogpt or arguments.litgpt) and not arguments.torch:
        parser.error("--nanogpt and --litgpt need --torch PYTHON")
    runs: dict[Way, list[Run]] = {way: [] for way in ways(arguments)}
    for _ in range(arguments.rounds):
        for way, measured in runs.items():
            measured.append(measure(way, arguments))
    for line in lines(runs, arguments.shape):
        print(json.dumps(line), flush=True)


def ways(arguments: argparse.Namespace) -> list[Way]:
    """Return the ways to run, ours first."""
    found = [Way(OURS, way, sys.executable, "ours.py") for way in ("scanned", "unrolled")]
    found.append(Way("plain_jax", "jit", sys.executable, "plain_jax.py"))
    for stack, is_wanted in (("nanogpt", arguments.nanogpt), ("litgpt", arguments.litgpt)):
        if is_wanted:
            found += [Way(stack, way, arguments.torch, "torch_step.py") for way in ("compiled", "eager")]
    return found


def measure(way: Way, arguments: argparse.Namespace) -> Run:
    """Run a process. Raises SystemExit with its last words if it fails."""
    n_layers, d_model, n_heads, sequence, batch, vocab_size = SHAPES[arguments.shape]
    settings = {
        "shape": arguments.shape, "n_layers": n_layers, "d_model": d_model, "n_heads": n_heads, "sequence": sequence,
        "batch": batch, "vocab_size": vocab_size, "d_ff": mlp_width(d_model), "stack": way.stack,
        "way": way.way, "steps": arguments.steps, "threads": os.cpu_count(),
    }  # fmt: skip
    environment = os.environ | {"NANOGPT": str(arguments.nanogpt and arguments.nanogpt.absolute())}
    begin, first_step, last = time.monotonic(), 0.0, ""
    command = [way.python, str(PEERS / way.script), json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "first step\n":
                first_step = time.monotonic() - begin
            last = line
    if process.returncode:
        raise SystemExit(f"error: {way.stack} ({way.way}) ended with status {process.returncode}")
    result = json.loads(last)
    return Run(result["seconds"], first_step, result["peak_rss_mb"])


def lines(runs: dict[Way, list[Run]], shape: str) -> list[dict[str, object]]:
    """Return a line for each way, relative to the fastest of the others' or of ours."""
    *_, sequence, batch, _ = SHAPES[shape]
    tokens = sequence * batch
    medians = {way: tokens / min(statistics.median(run.seconds) for run in measured) for way, measured in runs.items()}
    fastest = {own: max(rate for way, rate in medians.items() if (way.stack == OURS) is own) for own in (True, False)}
    return [
        {
            "shape": shape,
            "stack": way.stack,
            "way": way.way,
            "tokens_per_s": round(medians[way], 1),
            "best_tokens_per_s": round(tokens / min(min(run.seconds) for run in measured), 1),
            "relative": round(medians[way] / fastest[way.stack != OURS], 3),
            "first_step_s": round(min(run.first_step for run in measured), 1),
            "peak_rss_mb": min(run.peak_rss_mb for run in measured),
        }
        for way, measured in runs.items()
    ]


if __name__ == "__main__":
    main()
