#!/usr/bin/env python3
"""Measure how fast each objective turns windows of tokens into batches on one core. Prints one JSON line.

    python tools/bench_objectives.py
    python tools/bench_objectives.py --seq-len 256 --documents 3

It reports tokens per CPU second, which other processes disturb less than wall-clock time, and the fraction of unused
positions.
"""

from __future__ import annotations

import argparse
import json
import platform
import time

import numpy as np

from pathways_lite.document_frame import DocumentFrame
from pathways_lite.objectives.batches import make_batch, unused_fraction
from pathways_lite.objectives.denoisers import default_special_tokens
from pathways_lite.recipe import UL2, UL2R, Causal, CodeGen2, FillInTheMiddle, Objective

VOCABULARY, EOD = 32_000, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--documents", type=float, default=3.0, help="that start in a sequence, on average")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each objective")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    windows = rng.integers(1, VOCABULARY, (arguments.batch_size, arguments.seq_len + 1))
    windows[rng.random(windows.shape) < arguments.documents / arguments.seq_len] = EOD
    tokens = default_special_tokens(VOCABULARY, VOCABULARY + 1024)
    objectives = [Causal(), *(kind(tokens=tokens) for kind in (UL2R, UL2, FillInTheMiddle, CodeGen2))]
    results = {objective.kind: bench(objective, windows, arguments.seconds) for objective in objectives}
    print(json.dumps({**vars(arguments), **results, "cpu": platform.processor() or platform.machine()}))


def bench(objective: Objective, windows: np.ndarray, seconds: float) -> dict[str, float]:
    """Measure tokens per second of batches with new sample numbers, and the fraction of unused positions."""
    rows, tokens, shares = len(windows), 0, []
    start = time.process_time()
    while (elapsed := time.process_time() - start) < seconds:
        number = np.arange(rows) + tokens
        batch = make_batch(objective, windows, DocumentFrame(EOD), "document", np.zeros(rows), number, seed=0)
        tokens += batch.tokens.size
        shares.append(unused_fraction(batch))
    return {"tokens_per_s": round(tokens / elapsed), "unused": round(float(np.mean(shares)), 6)}


if __name__ == "__main__":
    main()
