"""What `runs` shows of a run, from its files and locks alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.run_lock import RunLock
from pathways_lite.runs.deletion import plan_deletion
from pathways_lite.runs.find import DELETED, find_outputs, find_runs, leftovers
from pathways_lite.runs.states import KILLED, stage_rows
from pathways_lite.tracking.formatting import age

MakeRun = Callable[..., Path]
START = {"event": "start", "time": "t"}


def only_row(run: Path) -> dict[str, Any]:
    (found,) = find_runs(run)
    rows, problems = stage_rows(found)
    assert not problems
    (row,) = rows
    return row


def test_a_stopped_run_shows_the_saved_step_which_need_not_be_logged(make_run: MakeRun) -> None:
    """The step from which the same command resumes, not the last one of the log."""
    end = {"event": "end", "status": 130, "stage": "base", "step": 14}
    row = only_row(make_run("stopped", steps=(14,), logged=10, finished=False, history=[START, end]))
    assert (row["state"], row["step"], row["saved_step"], row["total_steps"]) == ("stopped", 14, 14, 30)
    assert (row["total_tokens"], row["total_flops"]) == (99, 999)
    assert (row["loss"], row["mean_loss"]) == (4.0, 4.5)
    assert "reason" not in row


def test_a_killed_run_shows_what_it_logged_and_where_it_continues(make_run: MakeRun) -> None:
    row = only_row(make_run("killed", steps=(8,), logged=10, finished=False, history=[START]))
    assert (row["state"], row["reason"], row["step"], row["saved_step"]) == ("stopped", KILLED, 10, 8)


@pytest.mark.parametrize(
    ("history", "state", "reason"),
    [
        ([], "stopped", None),
        ([START, {"event": "end", "status": 2, "reason": "the disk is full"}], "failed", "the disk is full"),
        ([START, {"event": "end", "status": 2, "reason": "once"}, START], "stopped", KILLED),
    ],
)
def test_how_the_last_process_ended(make_run: MakeRun, history: Any, state: str, reason: str | None) -> None:
    row = only_row(make_run("run", logged=10, finished=False, history=history))
    assert (row["state"], row.get("reason")) == (state, reason)


def test_a_stage_that_stopped_early_is_seen(make_run: MakeRun) -> None:
    run = make_run("early", logged=20)
    row = only_row(run)
    assert (row["state"], row.get("stopped_early")) == ("done", None)
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["stages"][0]["budget"] = {"kind": "steps", "n": 60}
    (run / "recipe.json").write_text(json.dumps(recipe))
    with (run / "base" / "log.jsonl").open("a") as log:
        log.write(json.dumps({"kind": "event", "event": "early_stop", "step": 30, "best_step": 10}) + "\n")
    row = only_row(run)
    assert (row["state"], row["stopped_early"], row["step"], row["total_steps"]) == ("done", True, 30, 60)
    assert "done, stopped early" in CliRunner().invoke(app, ["runs", str(run)], env={"COLUMNS": "200"}).output


def test_a_run_whose_lock_is_held_is_running(make_run: MakeRun) -> None:
    run = make_run("running", finished=False, history=[START])
    with RunLock(run):
        assert only_row(run)["state"] == "running"
    assert only_row(run)["state"] == "stopped"


def test_a_finished_run_is_done_with_size_and_age(make_run: MakeRun) -> None:
    row = only_row(make_run("done", logged=30))
    assert row["state"] == "done"
    assert row["bytes"] == sum(path.stat().st_size for path in Path("runs/done").rglob("*") if path.is_file())
    (deletion,) = plan_deletion([Path("runs/done")], []).deletions
    assert deletion.nbytes == row["bytes"], "`runs` and `runs delete` say the same size"
    assert 0 <= row["age"] < 60


def test_ages_have_one_unit() -> None:
    assert [age(seconds) for seconds in (3, 90, 7200, 86400 * 3)] == ["< 1 min", "1 min", "2 h", "3 d"]


# ---- studies ----


@pytest.fixture
def study(make_run: MakeRun) -> Path:
    """A study of a trunk that two arms share and a tail, whose first stage is a link."""
    trunk, tail = make_run("study/nodes/aaa"), make_run("study/nodes/bbb")
    (tail / "base").rename(tail / "tail")
    (tail / "base").symlink_to("../aaa/base")
    recipe = json.loads((tail / "recipe.json").read_text())
    recipe["stages"].append({"name": "tail"})
    (tail / "recipe.json").write_text(json.dumps(recipe))
    nodes = {"aaa": {"arms": ["slow", "fast"]}, "bbb": {"arms": ["fast"]}}
    (trunk.parent.parent / "study.json").write_text(json.dumps({"nodes": nodes}))
    return trunk.parent.parent


@pytest.mark.parametrize("directory", ["runs", "runs/study"])
def test_nodes_of_a_study_have_arm_and_seed_and_shared_stages_appear_once(study: Path, directory: str) -> None:
    rows = [row for run in find_runs(Path(directory)) for row in stage_rows(run)[0]]
    assert [(row["arm"], row["seed"], row["stage"]) for row in rows] == [
        ("slow, fast", 7, "base"),
        ("fast", 7, "tail"),
    ]
    assert {row["study"] for row in rows} == {str(study)}


def test_a_failed_node_says_with_what(study: Path) -> None:
    node = study / "nodes" / "bbb"
    (node / "tail" / "summary.json").unlink()
    (node / "failure.json").write_text(json.dumps({"status": -9, "ended": 1.0, "tail": ""}))
    (row,) = stage_rows(find_runs(node)[0])[0]
    assert (row["state"], row["reason"]) == ("failed", "killed by signal 9")


def test_what_is_being_deleted_is_no_run(make_run: MakeRun) -> None:
    run = make_run("old")
    run.rename(Path("runs") / f"{DELETED}old-1")
    assert find_runs(Path("runs")) == []
    assert leftovers(Path("runs")) == [Path("runs") / f"{DELETED}old-1"]


@pytest.mark.parametrize(
    ("flops", "elsewhere", "imported", "shown"),
    [
        (0, "unknown", {"tokens": None}, "0 + unknown"),
        (0, None, {"tokens": None}, "0 + unknown"),  # of an earlier version
        (838e12, "stated", {"tokens": 10**6}, "838 T, stated"),
        (838e12, "unknown", None, "838 T + unknown"),  # merged from both
        (838e12, None, None, "838 T"),
    ],
)
def test_checkpoints_show_what_is_not_known_of_their_cost(
    flops: float, elsewhere: str | None, imported: dict | None, shown: str, make_run: MakeRun
) -> None:
    place = Path("runs") / "ours" / "step_00000000"
    place.mkdir(parents=True)
    total = {"tokens": 5, "flops": flops} | ({"cost_elsewhere": elsewhere} if elsewhere else {})
    meta = {"lineage": {"stage": "imported"}, "ledger": {"total": total}} | ({"imported": imported} if imported else {})
    (place / "manifest.json").write_text(json.dumps({"meta": meta}))
    printed = CliRunner().invoke(app, ["runs"], env={"COLUMNS": "200"}).stdout
    (row,) = (line for line in printed.splitlines() if "runs/ours" in line)
    cells = [cell.strip() for cell in row.replace("│", "|").split("|")]
    assert shown in cells or f" {shown} " in row
    assert (" + unknown" in row, ", stated" in row) == ("unknown" in shown, "stated" in shown)
    assert ("which is not free" in printed) == ("unknown" in shown)


def test_checkpoints_of_grow_and_merge_are_listed_after_the_runs(make_run: MakeRun) -> None:
    make_run("base")
    for name, stage in (("soup", "merged"), ("damaged", None)):
        place = Path("runs") / name / "step_00000000"
        place.mkdir(parents=True)
        meta = {"lineage": {"stage": stage}, "ledger": {"total": {"tokens": 5, "flops": 6}}}
        (place / "manifest.json").write_text(json.dumps({"meta": meta}) if stage else "12")
    assert [path.name for path in find_outputs(Path("runs"))] == ["soup", "damaged"]
    assert find_outputs(Path("runs/soup")) == [Path("runs/soup")]
    assert find_outputs(Path("runs/base")) == find_outputs(Path("runs/base/base")) == [], "its stages are no such thing"
    assert [run.path.name for run in find_runs(Path("runs"))] == ["base"]
    printed = CliRunner().invoke(app, ["runs", "--json"]).stdout.splitlines()
    _, soup, damaged = (json.loads(line) for line in printed)
    assert (soup["run"], soup["stage"], soup["state"], soup["step"]) == ("runs/soup", "merged", "checkpoint", 0)
    assert (soup["total_tokens"], soup["total_flops"]) == (5, 6)
    assert damaged["reason"] == "its manifest cannot be read"
    shown = CliRunner().invoke(app, ["runs"], env={"COLUMNS": "200"}).stdout
    assert "checkpoint: its manifest cannot be read" in shown
    assert CliRunner().invoke(app, ["runs", "delete", "runs/soup", "--yes"]).exit_code == 0
    assert not Path("runs/soup").exists()
