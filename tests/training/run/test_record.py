"""What a run directory says about its processes, and the mean loss of its log."""

import io
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from helpers.run_helpers import TOTAL, DieAfter, Died, InjectNaN, StopAfter, apply_overrides, log_bytes, run
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.errors import UserError
from pathways_lite.recipe import Recipe
from pathways_lite.run_directory import RunDirectory
from pathways_lite.run_history import FILE_NAME, RunHistory, last_end, last_start, read_history
from pathways_lite.runs.find import find_runs
from pathways_lite.runs.states import stage_rows
from pathways_lite.tracking.log import read_log
from pathways_lite.training.going_on import extended
from pathways_lite.training.run import train_run
from pathways_lite.training.run_record import describe_finished


def train(recipe: Recipe, path: Path, hooks: Any = None) -> str:
    """Train and return what was printed."""
    output = io.StringIO()
    train_run(recipe, path, console=Console(file=output, width=1000), hooks=hooks)
    return output.getvalue()


def train_rows(path: Path) -> list[dict[str, Any]]:
    return [row for row in read_log(path / "base" / "log.jsonl") if row["kind"] == "train"]


# ---- the mean loss ----


def test_the_mean_loss_is_that_of_the_steps_since_the_row_before_also_after_a_stop_between_rows(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    losses = {row["step"]: row["loss"] for row in train_rows(uninterrupted)}  # of every step
    assert all(row["mean_loss"] == row["loss"] for row in train_rows(uninterrupted))
    sparse = apply_overrides(recipe, ["stages.base.log_every=5"])
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(sparse, whole)
    rows = train_rows(whole)
    assert [row["step"] for row in rows] == [5, 10, TOTAL]
    for first, row in zip((1, 6, 11), rows, strict=True):
        steps = range(first, row["step"] + 1)
        assert row["mean_loss"] == pytest.approx(math.fsum(losses[step] for step in steps) / len(steps), rel=1e-7)
        assert row["loss"] == losses[row["step"]]
    run(sparse, stopped, StopAfter(7))  # saved with the losses of steps 6 and 7
    run(sparse, stopped)
    assert log_bytes(stopped) == log_bytes(whole)


def test_dropped_steps_are_not_in_the_mean(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    skipping = apply_overrides(recipe, ["stages.base.log_every=5", "stages.base.guard.policy=skip"])
    run(skipping, tmp_path, InjectNaN(12))  # in step 6, which is logged because it is dropped
    rows = {row["step"]: row for row in train_rows(tmp_path)}
    assert math.isnan(rows[6]["loss"])
    assert math.isnan(rows[6]["mean_loss"])
    assert math.isfinite(rows[10]["mean_loss"])


# ---- history and provenance ----


def test_every_start_and_its_end_are_recorded_and_the_checkpoint_knows_its_process(
    recipe: Recipe, tmp_path: Path
) -> None:
    said = train(recipe, tmp_path, StopAfter(7))
    assert f"Stopped at step 7 of {TOTAL} of stage 'base'" in said
    assert "The same command continues from there" in said
    (found,) = find_runs(tmp_path)
    (row,) = stage_rows(found)[0]
    assert (row["state"], row["step"], row["saved_step"]) == ("stopped", 7, 7)
    said = train(recipe, tmp_path)
    assert f"resuming {tmp_path}/base at step 7 of {TOTAL}" in said

    rows = read_history(tmp_path)
    assert [(row["event"], row.get("status"), row.get("step")) for row in rows] == [
        ("start", None, None), ("end", 128 + 15, 7), ("start", None, None), ("end", 0, TOTAL),
    ]  # fmt: skip
    start = rows[2]
    assert start["device"]["platform"] == "cpu"
    assert {"time", "command", "host", "package", "environment"} <= set(start)
    manifest = read_manifest(CheckpointManager(tmp_path / "base" / "checkpoints").path(TOTAL))
    assert manifest.meta["provenance"] == {name: value for name, value in start.items() if name != "event"}


def test_a_failure_is_recorded_with_its_reason_and_a_kill_without(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train(recipe, tmp_path / "failed", InjectNaN(12))
    end = last_end(read_history(tmp_path / "failed"))
    assert end is not None
    assert (end["status"], end["stage"], end["step"]) == (2, "base", 4)
    assert "halted at step 6" in end["reason"]
    with pytest.raises(Died):
        train(recipe, tmp_path / "killed", DieAfter("step", 6))
    rows = read_history(tmp_path / "killed")
    assert last_start(rows) is not None
    assert last_end(rows) is None


def test_a_finished_run_says_so_and_where_its_page_is(recipe: Recipe, uninterrupted: Path) -> None:
    before = read_history(uninterrupted)
    said = train(recipe, uninterrupted)
    assert f"{uninterrupted} is finished: nothing is left to train; " in said
    assert f"`pathways-lite report {uninterrupted}` writes its page" in said
    (uninterrupted / "report.html").touch()
    assert f"its page: {uninterrupted}/report.html" in train(recipe, uninterrupted)
    (uninterrupted / "report.html").unlink()
    assert read_history(uninterrupted) == before


def test_damaged_rows_of_a_history_are_passed_over_and_cost_no_other(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    history.add_start({"host": "x"})
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"event": "end", "sta')
    history.add_start({"host": "y"})
    assert [row["host"] for row in read_history(tmp_path)] == ["x", "y"]
    assert read_history(tmp_path / "nothing") == []


# ---- refused starts ----


def test_a_refused_start_leaves_nothing(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one"
    with pytest.raises(UserError, match="nonsense"):
        train_run(recipe, path, trackers=["nonsense"], console=Console(file=io.StringIO()))
    assert not (tmp_path / "runs").exists()


def test_a_refused_start_removes_nothing_that_was_there(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="nonsense"):
        train_run(recipe, tmp_path / "run", trackers=["nonsense"], console=Console(file=io.StringIO()))
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    before = sorted(uninterrupted.rglob("*"))
    with pytest.raises(UserError, match="begun with another recipe"):
        train(apply_overrides(recipe, ["stages.base.optimizer.learning_rate=1"]), uninterrupted)
    assert sorted(uninterrupted.rglob("*")) == before


def test_a_run_that_saved_and_logged_nothing_starts_over_with_another_recipe(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    """Ctrl-C before the first step leaves a directory with nothing to lose; after it, there is something."""
    stage = RunDirectory(tmp_path / "early").stage("base").path
    stage.mkdir(parents=True)
    shutil.copy(uninterrupted / "recipe.json", tmp_path / "early")
    (stage / "log.jsonl").write_text('{"kind": "event", "step": 0, "event": "interrupt"}\n')
    changed = apply_overrides(recipe, ["stages.base.budget=3 steps"])
    assert run(changed, tmp_path / "early") == 0
    with pytest.raises(UserError, match=r"begun with another recipe.*`pathways-lite runs delete .*early`"):
        run(recipe, tmp_path / "early")


def test_a_page_of_before_a_stage_is_not_announced_for_it(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathways_lite.training.run.draw_report", lambda run: run.report.touch())
    path = shutil.copytree(uninterrupted, tmp_path / "renamed")
    (path / "report.html").touch()
    output = io.StringIO()
    longer = extended(RunDirectory(path), "1 steps")
    assert train_run(longer, path, console=Console(file=output, width=1000), page=False, samples=False) == 0
    assert "renamed/base_more" in output.getvalue()
    assert "report:" not in output.getvalue()
    assert f"`pathways-lite report {path}` writes its page" in describe_finished(RunDirectory(path))
    (path / "report.html").touch()
    assert f"its page: {path / 'report.html'}" in describe_finished(RunDirectory(path))
