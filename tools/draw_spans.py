#!/usr/bin/env python3
"""Draw docs/kernels.svg: which keys each query sees, and which blocks a kernel visits, for four kinds of spans.

python tools/draw_spans.py docs/kernels.svg
"""

from __future__ import annotations

import argparse
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.patches import Patch, Rectangle

from pathways_kernels.attention.block_ranges import key_block_ranges, padded_spans
from pathways_kernels.attention.spans import Spans, causal, dense_mask, from_segments, prefix, window

T, BLOCK = 32, 4
LENGTHS = [13, 7, 12]
SEGMENTS = np.repeat([0, 1, 2], LENGTHS)[None]
KINDS = {
    "causal": causal(1, T),
    "sliding window of 10": window(1, T, 10),
    "packed documents": from_segments(SEGMENTS),
    "packed prefix-LM": prefix(from_segments(SEGMENTS, bidirectional=True), np.repeat([6, 5, 3], LENGTHS)[None]),
}
ALLOWED, MASKED, WHOLE = "#334155", "#fde68a", "#bfdbfe"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="of the picture")
    path = parser.parse_args().path
    plt.rcParams["svg.hashsalt"] = "spans"  # the same picture, the same bytes
    figure, axes = plt.subplots(1, 4, figsize=(13, 4.1), layout="constrained")
    for axis, (name, spans) in zip(axes, KINDS.items(), strict=True):
        draw(axis, name, spans)
    axes[0].set_ylabel("query")
    handles = [
        Patch(facecolor=WHOLE, edgecolor="black", label="visited, wholly allowed: no mask"),
        Patch(facecolor=MASKED, edgecolor="black", hatch="///", label="visited, with a mask"),
        Patch(facecolor="white", edgecolor="black", label="not visited"),
        Patch(facecolor=ALLOWED, label="query sees key"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def draw(axis: plt.Axes, name: str, spans: Spans) -> None:
    visited = np.asarray(key_block_ranges(padded_spans(spans, T, T), BLOCK, BLOCK))[0]
    for i, (start, full_start, full_stop, stop) in enumerate(visited):
        for j in range(start, stop):
            is_full = full_start <= j < full_stop
            style: dict[str, Any] = {"facecolor": WHOLE} if is_full else {"facecolor": MASKED, "hatch": "///"}
            axis.add_patch(Rectangle((j * BLOCK, i * BLOCK), BLOCK, BLOCK, edgecolor="#94a3b8", linewidth=0, **style))
    query, key = np.nonzero(dense_mask(spans, T)[0])
    axis.scatter(key + 0.5, query + 0.5, s=5, color=ALLOWED, linewidths=0)
    axis.set(xlim=(0, T), ylim=(T, 0), aspect="equal", title=name, xlabel="key")
    axis.set_xticks(range(0, T + 1, BLOCK), [])
    axis.set_yticks(range(0, T + 1, BLOCK), [])
    axis.grid(color="#64748b", linewidth=0.6)
    axis.set_axisbelow(False)


if __name__ == "__main__":
    main()
