"""Curves read from runs."""

from pathlib import Path

import pytest

from pathways_lite.comparison.compare import Arm
from pathways_lite.comparison.curves import Curve, read_curve
from pathways_lite.comparison.metric import Metric
from pathways_lite.comparison.table import Results
from pathways_lite.errors import UserError
from pathways_lite.tracking.run_data import RunData, StageData


def run(name: str, losses: list[float], *, zeros: float | None) -> RunData:
    """Make a run evaluated after 10, 20, … TFLOPs; `zeros` is the share of them spent on zeros, None if not logged."""
    rows = []
    for number, loss in enumerate(losses, start=1):
        row = {"kind": "eval", "step": number, "total_flops": number * 10e12, "total_tokens": number}
        row["domains"] = {"tales": {"nll": loss * 8, "tokens": 8, "bytes": 8}}
        if zeros is not None:
            row["total_sparse_flops"] = row["total_flops"] * (1 - zeros)
        rows.append(row)
    return RunData(Path(name), {"name": name, "seed": 0}, [StageData("base", Path(name), rows=rows)], [])


def curve(metric: Metric, losses: list[float], zeros: float | None) -> Curve:
    return read_curve(run("run", losses, zeros=zeros), metric)


def test_zeros_cost_what_the_metric_says() -> None:
    """A sparse run that is worse than the dense one at equal FLOPs is better where its zeros cost nothing."""
    differences = {}
    for flops in ("dense", "sparse"):
        metric = Metric(flops=flops)
        sparse = Arm("pruned", (curve(metric, [3.1, 2.1], 0.5),))
        dense = Arm("whole", (curve(metric, [3.0, 2.0], 0.0),))
        results = Results.compare_arms([sparse, dense], "whole", metric)
        (comparison,) = results.comparisons
        differences[flops] = comparison.flops, comparison.difference.value
        assert ("zeros are skipped" in results.notes()[0]) == (flops == "sparse")
    assert differences["dense"] == (20e12, pytest.approx(0.1))
    assert differences["sparse"] == (10e12, pytest.approx(2.1 - 3.0))


def test_a_log_without_sparse_flops_is_a_dense_runs() -> None:
    assert list(curve(Metric(flops="sparse"), [3.0, 2.0], None).flops) == [10e12, 20e12]


def test_a_run_without_held_out_text_is_a_sentence() -> None:
    data = run("run", [3.0, 2.0], zeros=None)
    for row in data.stages[0].rows:
        row["domains"] = {}
    for metric in (Metric(), Metric(unit="bits_per_byte"), Metric(domain="tales")):
        with pytest.raises(UserError, match=r"has no held-out documents.*--of train"):
            read_curve(data, metric)


def test_bits_per_byte_of_a_lossy_tokenizer_are_not_compared() -> None:
    data = run("run", [3.0, 2.0], zeros=None)
    data.stages[0].rows[1]["domains"]["tales"]["lossy"] = True
    assert list(read_curve(data, Metric()).loss) == [3.0, 2.0]
    with pytest.raises(UserError, match="not a code length"):
        read_curve(data, Metric(unit="bits_per_byte"))
