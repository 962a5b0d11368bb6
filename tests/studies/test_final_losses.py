"""Final losses of a study: by seed and by document, the differences that follow, and the file that keeps them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.comparison.bootstrap import holm, ratio_interval, student_t_interval
from pathways_lite.studies.final_losses import (
    final_difference,
    final_differences,
    final_loss,
    final_sentences,
    gather_results,
    write_results,
)
from pathways_lite.studies.measures import EVALUATION, evaluate_study
from pathways_lite.studies.plan import plan_study, study_store
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import Study

SIZES = {"poems": [100, 300], "tales": [600]}


def results_of(losses: dict[str, dict[str, list[float]]], domain: str | None = None) -> dict[str, Any]:
    """Make the results of arms with a loss per domain and seed, the same in every document."""
    arms = {
        arm: {
            "seeds": [0, 1, 2],
            "losses": {d: dict(zip("012", by_seed, strict=True)) for d, by_seed in by_domain.items()},
            "nats": {d: [n * float(np.mean(by_seed)) for n in SIZES[d]] for d, by_seed in by_domain.items()},
        }
        for arm, by_domain in losses.items()
    }
    return {"baseline": "base", "domain": domain, "documents": SIZES, "arms": arms}


RESULTS = results_of(
    {
        "base": {"poems": [2.0, 2.1, 1.9], "tales": [3.0, 3.1, 2.9]},
        "better": {"poems": [1.8, 1.9, 1.71], "tales": [3.0, 3.1, 2.9]},
        "equal": {"poems": [2.01, 2.09, 1.9], "tales": [3.0, 3.1, 2.9]},
    }
)


def test_losses_weigh_domains_by_their_tokens() -> None:
    assert final_loss(RESULTS, "base", "poems") == {"0": 2.0, "1": 2.1, "2": 1.9}
    assert final_loss(RESULTS, "base")["1"] == pytest.approx((400 * 2.1 + 600 * 3.1) / 1000)


def test_differences_have_an_error_over_seeds_and_one_over_documents() -> None:
    d = final_difference(RESULTS, "better", "base", "poems")
    assert d is not None
    expected = student_t_interval(np.array([-0.2, -0.2, -0.19]))
    assert (d.over_seeds.low, d.over_seeds.high) == pytest.approx((expected.low, expected.high))
    assert (d.seeds, d.documents) == (3, 2)
    assert d.over_documents.value == pytest.approx(d.over_seeds.value)
    assert d.is_decided


def test_documents_that_differ_widen_the_interval() -> None:
    same = ratio_interval(np.array([-10.0, -30.0]), np.array([100.0, 300.0]))
    assert (same.low, same.high) == pytest.approx((-0.1, -0.1))
    other = ratio_interval(np.array([10.0, -50.0]), np.array([100.0, 300.0]))
    assert other.value == pytest.approx(-0.1)
    assert other.low < -0.1 < 0 < other.high


def test_a_ratio_of_equal_sizes_is_student_t_of_the_mean() -> None:
    values = np.array([1.0, 2.0, 4.0, 3.0])
    ratio, t = ratio_interval(values, np.ones(4)), student_t_interval(values)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((t.value, t.low, t.high))
    assert not ratio_interval(values[:1], np.ones(1)).has_limits


def test_p_values_are_corrected_for_the_number_of_arms() -> None:
    differences = final_differences(RESULTS | {"domain": "poems"})
    assert [d.arm for d, _ in differences] == ["better", "equal"]
    assert [p for _, p in differences] == holm([d.p_value for d, _ in differences])
    better, equal = final_sentences(RESULTS | {"domain": "poems"})
    assert better.startswith("better ends -0.1967")
    assert "on poems over 3 seeds" in better
    assert "2 held-out" in better
    assert "after Holm's correction" in equal


def test_seeds_of_one_arm_alone_are_left_out() -> None:
    fewer = json.loads(json.dumps(RESULTS))
    fewer["arms"]["better"]["seeds"] = [1]
    d = final_difference(fewer, "better", "base", "poems")
    assert d is not None
    assert (d.seeds, d.p_value) == (1, None)
    assert not d.over_seeds.has_limits
    fewer["arms"]["better"]["seeds"] = [7]
    fewer["arms"]["better"]["losses"] = {"poems": {"7": 1.0}, "tales": {"7": 1.0}}
    assert final_difference(fewer, "better", "base") is None


def test_results_of_a_trained_study(study: Study, store: StudyStore, study_file: Path, tmp_path: Path) -> None:
    last = [identity for identity, node in store.nodes.items() if node.is_last]
    paths = [store.run_directory(identity).path / EVALUATION for identity in last]
    try:
        assert evaluate_study(store, 200, lambda line: None, infilling=False) == 2
        content = json.loads(paths[0].read_text())
        assert "infilling" not in content
        for domain, values in content["documents"].items():
            assert sum(values["nll"]) / sum(values["tokens"]) == pytest.approx(content["domains"][domain]["loss"])
            assert content["domains"][domain]["documents"] == len(values["nll"])
        results = gather_results(plan_study(study, store.path), study_file)
        write_results(tmp_path / "new" / "rates.json", results)
        assert json.loads((tmp_path / "new" / "rates.json").read_text()) == results
        d = final_difference(results, "fast", "slow")
        assert d is not None
        assert math.isfinite(d.over_seeds.value)
        assert d.documents == results_documents(results)
        slow = results["arms"]["slow"]
        assert slow["tokens"] == 10 * 2 * 32  # of both stages
        command = ["study", "report", str(study_file), "--out", str(store.path), "--results", str(tmp_path)]
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
        assert json.loads((tmp_path / "rates.json").read_text())["arms"] == results["arms"]
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def results_documents(results: dict[str, Any]) -> int:
    return sum(map(len, results["documents"].values()))


def test_nothing_is_compared_before_the_baseline_is_evaluated(study: Study, tmp_path: Path) -> None:
    results = gather_results(plan_study(study, tmp_path), "rates.py")
    assert (results["arms"], final_differences(results)) == ({}, [])
    assert study_store(study, tmp_path).nodes
