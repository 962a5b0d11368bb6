"""The arithmetic of the attention benchmarks."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pathways_kernels.attention.block_sizes import TUNED, Limits
from pathways_lite.planner import kernel_estimates as estimates

TOOLS = Path(__file__).parent.parent.parent / "tools"


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import bench_attention
    import tune_attention

    yield tune_attention, bench_attention
    for name in ("attention_static", "tune_attention", "bench_attention"):
        sys.modules.pop(name)


def test_costs_add_up_over_the_blocks_visited():
    costs = estimates.Costs(per_key=0.5, block=100, run=40, pair=30, single=16)
    # A run of four whole blocks, and three whole and two masked ones as masked; then three masked; then nothing.
    visited = np.array([[0, 1, 8, 9], [2, 5, 5, 5], [0, 0, 0, 0]])
    assert costs.cycles(visited, 1000, unroll=4) == 500 + 3 * 100 + (40 + 2 * 30 + 16) + (30 + 16)
    assert costs.cycles(visited, 1000, unroll=1) == 500 + 3 * 100 + (7 * 40 + 2 * 16) + 3 * 16


TRUE = estimates.Costs(per_key=1.5, block=300.0, run=800.0, pair=450.0, single=260.0)


def additive(kernel, chip, D, limits, T, S, runs, pairs, singles):
    """In place of the estimate of a call with two heads."""
    visited = TRUE.run * runs + TRUE.pair * pairs + TRUE.single * singles
    return 2 * (TRUE.per_key * S + T // limits.rows * (TRUE.block + visited))


def test_costs_are_recovered_from_estimates_that_add_up(tools, monkeypatch):
    tune, _ = tools
    monkeypatch.setattr(estimates, "estimate", additive)
    limits = Limits(512, 512, 4)
    found = estimates.costs("forward", "v5e", 128, limits)
    assert found == TRUE
    full = tune.kinds_of_spans(4096)["full"]
    assert tune.cycles_per_head(found, limits, full) == 1.5 * 4096 + 8 * (300 + 2 * 800)


def test_a_causal_call_costs_the_blocks_up_to_the_diagonal(monkeypatch):
    monkeypatch.setattr(estimates, "estimate", additive)
    rows, keys, unroll = TUNED["v5p", 256][0]
    assert (rows, keys, unroll) == (512, 512, 4)
    # 4 heads share a key head: 16 blocks of 128 queries, of which 4 each see 0, 1, 2 and 3 whole blocks and one masked.
    one = 1.5 * 2048 + 16 * 300 + 4 * (260 + 450 + (450 + 260) + 2 * 450)
    assert estimates.causal_cycles("forward", "v5p", (3, 2, 4, 2048, 256), 2048) == 3 * 2 * one
    assert estimates.causal_cycles("forward", "v4", (3, 2, 4, 2048, 256), 2048) == 3 * 2 * one
    assert estimates.causal_cycles("forward", "v5p", (3, 2, 4, 1024, 256), 2048) == 3 * one
    monkeypatch.setattr(estimates, "estimate", lambda *_, **__: None)
    assert estimates.causal_cycles("forward", "v5p", (3, 2, 4, 2048, 256), 2048) is None


def test_kinds_of_spans_have_the_shares_they_are_named_for(tools):
    tune, bench = tools
    share = {kind: bench.allowed_pairs(x) / 4096**2 for kind, x in tune.kinds_of_spans(4096, rows=200).items()}
    assert share["full"] == 1
    assert share["causal"] == pytest.approx(0.5, abs=0.001)
    assert share["prefix"] == pytest.approx(0.5 + 1 / 6, abs=0.05)  # half, and half of the squared prefix: E[u²] / 2
    assert share["packed"] == pytest.approx(1 / 8, rel=0.15)  # half of twice the squared mean, over the length
