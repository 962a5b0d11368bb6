#!/usr/bin/env python3
"""Block sizes of the TPU attention kernels, chosen by libtpu's static estimate; no TPU needed (extra `tpu`).

    python tools/tune_attention.py --chips v5e --head-dims 128

For each chip, head dim and kernel it estimates every candidate on four kinds of rows of 4096 tokens (full, causal,
packed documents of mean length 512, prefix-LM), prints one JSON line for each and, at the end, the best by the
geometric mean over the kinds, as lines for `TUNED` in `kernels/pathways_kernels/attention/block_sizes.py`. Minutes per
candidate.
"""

from __future__ import annotations

import argparse
import json
import math

import jax
import numpy as np

from pathways_kernels.attention import Spans
from pathways_kernels.attention.block_ranges import key_block_ranges, padded_spans
from pathways_kernels.attention.block_sizes import Limits
from pathways_kernels.attention.spans import causal, from_segments, full, prefix
from pathways_lite.chips import TPUS
from pathways_lite.planner.kernel_estimates import Costs, costs

CANDIDATES = {
    "forward": [Limits(1024, 512, 4), Limits(512, 512, 4), Limits(512, 1024, 2)],
    "backward": [Limits(512, 512, 2), Limits(512, 512, 1), Limits(1024, 512, 1)],
}


def kinds_of_spans(T: int, rows: int = 8) -> dict[str, Spans]:
    """Full, causal, packed documents (causal, mean length T / 8, exponential) and prefix-LM (one prefix, uniform)."""
    rng = np.random.default_rng(0)
    segments = np.cumsum(rng.random((rows, T)) < 8 / T, axis=1)
    return {
        "full": full(1, T),
        "causal": causal(1, T),
        "packed": from_segments(segments),
        "prefix": prefix(full(rows, T), rng.integers(0, T, rows)),
    }


def cycles_per_head(found: Costs, limits: Limits, spans: Spans) -> float:
    """Mean over the rows."""
    T = spans.start.shape[1]
    visited = np.asarray(key_block_ranges(padded_spans(spans, T, T), limits.rows, limits.keys))
    return float(np.mean([found.cycles(row, T, limits.unroll) for row in visited]))


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", nargs="+", default=["v5e", "v5p", "v6e"], choices=list(TPUS))
    parser.add_argument("--head-dims", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--kernels", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES))
    parser.add_argument("--length", type=int, default=4096)
    arguments = parser.parse_args()
    kinds = kinds_of_spans(arguments.length)
    best: dict[str, dict[str, Limits]] = {}
    for chip in arguments.chips:
        for D in arguments.head_dims:
            for kernel in arguments.kernels:
                scores: dict[Limits, float] = {}
                for limits in CANDIDATES[kernel]:
                    found = costs(kernel, chip, D, limits)
                    if found is not None:
                        cycles = {kind: cycles_per_head(found, limits, spans) for kind, spans in kinds.items()}
                        scores[limits] = math.exp(np.mean(np.log(list(cycles.values()))))
                    line = {"chip": chip, "head_dim": D, "kernel": kernel, "limits": limits, "fits": found is not None}
                    if found is not None:
                        line |= {"cycles": {kind: round(x) for kind, x in cycles.items()}, "costs": found._asdict()}
                    print(json.dumps(line), flush=True)
                if scores:
                    best.setdefault(f'("{chip}", {D})', {})[kernel] = min(scores, key=scores.__getitem__)
    for key, chosen in best.items():
        print(f"{key}: {tuple(tuple(x) for x in chosen.values())}")


if __name__ == "__main__":
    main()
