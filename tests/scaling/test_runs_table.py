"""Run directories as a table."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.invoke import invoke
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.scaling.runs_table import left_out_studies, runs_table
from pathways_lite.scaling.table import read_table

D, CORPUS = 640, 1000
SIZES = {"base": 1000, "grown": 4000}  # parameters by stage


def counts(stage: str, tokens: int) -> tuple[dict[str, int], dict[str, int]]:
    """The accounts of a stage after `tokens` of its own, and of the chain up to there."""
    own = {"tokens": tokens, "flops": 6 * SIZES[stage] * tokens, "active_parameter_tokens": SIZES[stage] * tokens}
    if stage == "base":
        return own, own
    before, _ = counts("base", D)
    return own, {name: own[name] + before[name] for name in own}


def rows(stage: str) -> list[dict[str, Any]]:
    """The log of a stage that is evaluated half way and at its end."""
    found = []
    for step in (5, 10):
        own, total = counts(stage, D * step // 10)
        shared = {
            "step": step, "tokens": own["tokens"], "flops": own["flops"], "total_tokens": total["tokens"],
            "total_flops": total["flops"], "active_parameter_tokens": total["active_parameter_tokens"],
        }  # fmt: skip
        found += [{"kind": "train", **shared, "loss": 3.0}, {"kind": "eval", **shared, "domains": domains(10 / step)}]
    return found


def domains(factor: float) -> dict[str, Any]:
    return {
        "a": {"loss": 2.0 * factor, "bits_per_byte": 1.0, "nll": 20.0 * factor, "tokens": 10, "bytes": 20},
        "b": {"loss": 4.0 * factor, "bits_per_byte": 2.0, "nll": 120.0 * factor, "tokens": 30, "bytes": 60},
    }


def make_run(directory: Path) -> Path:
    """A run of two finished stages."""
    model = {"vocab_size": 100, "d_model": 8, "tie_embeddings": True}
    stage = {"model": model, "optimizer": {"kind": "adamw", "learning_rate": 1e-3, "schedule": {"kind": "cosine"}}}
    data = {"seq_len": 16, "fingerprint": "f"}
    stages = [
        {"name": name, **stage, "data": data, "batch_size": 4, "start": {"kind": start}}
        for name, start in (("base", "scratch"), ("grown", "grow"))
    ]
    directory.mkdir(parents=True)
    (directory / "recipe.json").write_text(json.dumps({"name": "r", "seed": 3, "stages": stages}))
    for name in SIZES:
        own, total = counts(name, D)
        files = {
            "ledger.json": {"total_steps": 10, "corpus_tokens": CORPUS, "stage": own, "total": total},
            "summary.json": {"step": 10, "domains": domains(1.0)},
            "checkpoints/step_00000010/manifest.json": {"step": 10, "meta": {"ledger": {"stage": own, "total": total}}},
        }
        for file, content in files.items():
            (directory / name / file).parent.mkdir(parents=True, exist_ok=True)
            (directory / name / file).write_text(json.dumps(content))
        (directory / name / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(name)))
    return directory


def test_a_row_for_every_evaluation(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "r")
    table = runs_table([tmp_path / "runs"])
    assert list(table["stage"]) == ["base", "base", "grown", "grown"]
    assert list(table["lineage"]) == ["", "", "base", "base"]
    expected = {
        "L": [7, 3.5, 7, 3.5],
        "D": [320, 640, 960, 1280],
        "U": [320, 640, 960, CORPUS],
        "C": [6 * tokens for tokens in (1000 * 320, 1000 * 640, 1000 * 640 + 4000 * 320, 5000 * 640)],
        "N": [1000, 1000, 4000, 4000],
        "N_average": [1000, 1000, 2000, 2500],
        "N_non_embedding": [200, 200, 3200, 3200],
        "B": [64] * 4,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, err_msg=name)
    result = CliRunner().invoke(app, ["runs", "table", str(tmp_path / "runs"), "--out", str(tmp_path / "t.parquet")])
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(read_table(tmp_path / "t.parquet")["loss_b"], [8, 4, 8, 4])


def test_final_rows_are_those_of_finished_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "r")
    unfinished = make_run(tmp_path / "s")
    (unfinished / "grown" / "summary.json").unlink()
    table = runs_table([tmp_path], final=True)
    assert list(table["run"]) == [str(tmp_path / "r")]
    assert table["D"] == [1280]
    with pytest.raises(UserError, match="none of 1 runs is finished"):
        runs_table([unfinished], final=True)


def test_without_logs_rows_are_read_from_checkpoints(tmp_path: Path) -> None:
    whole = runs_table([make_run(tmp_path / "r")])
    for name in SIZES:
        (tmp_path / "r" / name / "log.jsonl").unlink()
        (tmp_path / "r" / name / "ledger.json").unlink()
    table = runs_table([tmp_path / "r"])
    for name in ("N", "N_average", "D", "C", "D_stage", "L"):
        np.testing.assert_allclose(table[name], whole[name][[1, 3]], err_msg=name)
    assert np.isnan(table["U"]).all(), "how large the corpus was is in the ledger alone"
    for name in SIZES:
        (tmp_path / "r" / name / "summary.json").unlink()
    assert np.isnan(runs_table([tmp_path / "r"])["L"]).all()


def test_a_shared_stage_counts_once(tmp_path: Path) -> None:
    """The nodes of a study: one trained the first stage, the other links to it."""
    nodes = tmp_path / "study" / "nodes"
    first, second = make_run(nodes / "one"), make_run(nodes / "two")
    shutil.rmtree(second / "base")
    (second / "base").symlink_to(first / "base")
    table = runs_table([tmp_path / "study"])
    assert list(zip(table["run"], table["stage"], strict=True)) == [
        *[(str(first), "base")] * 2, *[(str(first), "grown")] * 2, *[(str(second), "grown")] * 2,
    ]  # fmt: skip


def test_nodes_of_studies_that_are_left_out_are_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make_run(runs / "rates" / "nodes" / "one")
    with pytest.raises(UserError, match=r"but those of studies: 1 node of a study left out \(rates\): name a study"):
        runs_table([runs])
    make_run(runs / "plain")
    make_run(runs / ".deleted-old" / "nodes" / "two")
    assert set(runs_table([runs])["run"]) == {str(runs / "plain")}
    assert left_out_studies([runs], "see") == f"1 node of a study left out (rates): see {runs / 'rates'}"
    assert left_out_studies([runs, runs / "rates"]) == ""
    out = tmp_path / "table.csv"
    said = invoke("runs", "table", runs, "--out", out).output
    assert f"as in pathways-lite runs table {runs} {runs / 'rates'}" in said
    assert "left out" not in invoke("runs", "table", runs, runs / "rates", "--out", out).output


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run"):
        runs_table([tmp_path])
    make_run(tmp_path / "r")
    for name in SIZES:
        (tmp_path / "r" / name / "log.jsonl").unlink()
    (tmp_path / "r" / "base" / "checkpoints" / "step_00000010" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="is not the manifest of a checkpoint"):
        runs_table([tmp_path / "r"])
