"""The arithmetic of the attention benchmarks."""

import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parent.parent.parent / "tools"


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import attention_static
    import bench_attention
    import tune_attention

    yield attention_static, tune_attention, bench_attention
    for name in ("attention_static", "tune_attention", "bench_attention"):
        sys.modules.pop(name)


def test_costs_add_up_over_the_blocks_visited(tools):
    costs = tools[0].Costs(per_key=0.5, block=100, run=40, pair=30, single=16)
    # A run of four whole blocks, and three whole and two masked ones as masked; then three masked; then nothing.
    visited = np.array([[0, 1, 8, 9], [2, 5, 5, 5], [0, 0, 0, 0]])
    assert costs.cycles(visited, 1000, unroll=4) == 500 + 3 * 100 + (40 + 2 * 30 + 16) + (30 + 16)
    assert costs.cycles(visited, 1000, unroll=1) == 500 + 3 * 100 + (7 * 40 + 2 * 16) + 3 * 16


def test_costs_are_recovered_from_estimates_that_add_up(tools, monkeypatch):
    static, tune, _ = tools
    true = static.Costs(per_key=1.5, block=300.0, run=800.0, pair=450.0, single=260.0)

    def estimate(kernel, chip, D, limits, T, S, runs, pairs, singles):
        visited = true.run * runs + true.pair * pairs + true.single * singles
        return 2 * (true.per_key * S + T // limits.rows * (true.block + visited))

    monkeypatch.setattr(static, "estimate", estimate)
    limits = tune.Limits(512, 512, 4)
    found = static.costs("forward", "v5e", 128, limits)
    assert found == true
    full = tune.kinds_of_spans(4096)["full"]
    assert tune.cycles_per_head(found, limits, full) == 1.5 * 4096 + 8 * (300 + 2 * 800)


def test_kinds_of_spans_have_the_shares_they_are_named_for(tools):
    _, tune, bench = tools
    share = {kind: bench.allowed_pairs(x) / 4096**2 for kind, x in tune.kinds_of_spans(4096, rows=200).items()}
    assert share["full"] == 1
    assert share["causal"] == pytest.approx(0.5, abs=0.001)
    assert share["prefix"] == pytest.approx(0.5 + 1 / 6, abs=0.05)  # half, and half of the squared prefix: E[u²] / 2
    assert share["packed"] == pytest.approx(1 / 8, rel=0.15)  # half of twice the squared mean, over the length
