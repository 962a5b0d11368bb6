"""Deleting runs and checkpoints: what goes, what is protected, and what a kill in between leaves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathways_lite.checkpoint_names import checkpoint_steps
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.errors import UserError
from pathways_lite.run_directory import RunDirectory
from pathways_lite.run_lock import RunLock
from pathways_lite.runs.deletion import carry_out, plan_deletion, plan_pruning
from pathways_lite.runs.find import find_runs, leftovers
from pathways_lite.runs.retention import Rule, parse_rule

MakeRun = Callable[..., Path]


def prune(run: Path, *rules: str) -> list[int]:
    """Prune a run and return the steps that are left."""
    carry_out(plan_pruning([run], [parse_rule(rule) for rule in rules], ()))
    return checkpoint_steps(run / "base" / "checkpoints")


# ---- rules ----


@pytest.mark.parametrize("text", ["newest 3", "newest=3", "newest:3", " Newest 3 "])
def test_a_rule_may_be_written_in_several_ways(text: str) -> None:
    assert parse_rule(text) == Rule("newest", 3)


def test_numbers_of_rules_have_separators_and_units() -> None:
    assert parse_rule("every 10,000 steps") == parse_rule("every 10_000") == Rule("every", 10_000)
    assert parse_rule("best") == Rule("best", 1)


@pytest.mark.parametrize("text", ["", "oldest 3", "newest 0", "every", "newest -1", "3"])
def test_another_rule_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a rule; write"):
        parse_rule(text)


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (["newest 1"], [50]),
        (["newest 2"], [40, 50]),
        (["every 20 steps"], [20, 40, 50]),  # the newest always stays
        (["best 1"], [20, 50]),
        (["best 2"], [20, 30, 50]),
        (["newest 2", "best"], [20, 40, 50]),
        (["every 1000"], [50]),
    ],
)
def test_rules_keep_their_union_and_the_newest(make_run: MakeRun, rules: list[str], kept: list[int]) -> None:
    losses = {5: 0.1, 10: 5.0, 20: 2.0, 30: 3.0, 40: float("nan")}
    run = make_run("run", steps=(10, 20, 30, 40, 50), losses=losses)
    assert prune(run, *rules) == kept


def test_the_best_needs_an_evaluation_at_a_saved_step(make_run: MakeRun) -> None:
    with pytest.raises(UserError, match="no held-out loss at the step of any of its checkpoints"):
        prune(make_run("run", losses={7: 1.0}), "best 1")


def test_a_plan_has_the_bytes_that_become_free(make_run: MakeRun) -> None:
    run = make_run("run")
    plan = plan_pruning([run], [Rule("newest", 1)], ())
    assert [deletion.path.name for deletion in plan.deletions] == ["step_00000010", "step_00000020"]
    assert plan.nbytes == 2 * 5
    whole = plan_deletion([run], ())
    assert whole.nbytes == sum(path.stat().st_size for path in run.rglob("*") if path.is_file())


def test_what_grow_and_merge_wrote_is_deleted_unless_a_run_starts_from_it(make_run: MakeRun, tmp_path: Path) -> None:
    soup = tmp_path / "runs" / "soup"
    (soup / "step_00000000").mkdir(parents=True)
    (soup / "step_00000000" / "manifest.json").write_text("12345")
    (whole,) = plan_deletion([soup], ()).deletions
    assert (whole.path, whole.what) == (soup, "checkpoint of grow, merge or convert")
    user = make_run("user", start={"kind": "restore", "path": "runs/soup", "digest": None})
    with pytest.raises(UserError, match="user needs it"):
        plan_deletion([soup], ())
    with pytest.raises(UserError, match="neither a run"):  # a stage's folder is no such thing
        plan_deletion([user / "base" / "checkpoints"], ())
    carry_out(plan_deletion([user, soup], ()))
    assert not soup.exists()
    (tmp_path / "runs" / "grown" / "step_00000000").mkdir(parents=True)
    with pytest.raises(UserError, match=r'start=Restore\(path="runs/grown"\)'):
        RunDirectory(Path("runs/grown")).recipe()


# ---- what is protected ----


def test_a_run_that_is_written_to_is_refused_when_planned_and_when_carried_out(make_run: MakeRun) -> None:
    run = make_run("run")
    plan = plan_deletion([run], ())
    with RunLock(run):
        for refused in (
            lambda: plan_deletion([run], ()),
            lambda: plan_pruning([run], [Rule("newest", 1)], ()),
            lambda: carry_out(plan),
        ):
            with pytest.raises(UserError, match=r"nothing was deleted: .*run"):
                refused()
    assert checkpoint_steps(run / "base" / "checkpoints") == [10, 20, 30]
    carry_out(plan)
    assert not run.exists()


@pytest.fixture
def saved_run(make_run: MakeRun) -> Path:
    """A run with real checkpoints of steps 1, 2 and 3."""
    run = make_run("saved", steps=())
    with CheckpointManager(run / "base" / "checkpoints") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"w": np.full(4, step, np.float32)}, {})
    return run


STARTS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "restore": lambda path, digest: {"kind": "restore", "path": path, "digest": digest},
    "merge": lambda path, digest: {"kind": "merge", "checkpoints": [{"path": path, "weight": 1, "digest": digest}]},
}


@pytest.mark.parametrize("kind", STARTS)
def test_a_checkpoint_that_another_run_starts_from_stays_and_its_run_too(
    make_run: MakeRun, saved_run: Path, kind: str
) -> None:
    """It is found by the digest, wherever the path led."""
    digest = read_manifest(saved_run / "base" / "checkpoints" / "step_00000001").digest
    make_run("child", start=STARTS[kind]("/elsewhere", digest))
    plan = plan_pruning([saved_run], [Rule("newest", 1)], ())
    assert [(path.name, reason) for path, reason in plan.protected] == [
        ("step_00000001", "runs/child needs it: its recipe names it".replace("runs", str(Path.cwd() / "runs")))
    ]
    assert prune(saved_run, "newest 1") == [1, 3]
    with pytest.raises(UserError, match=r"other runs need what would go:\n.*child needs it"):
        plan_deletion([saved_run], ())
    both = plan_deletion([saved_run, Path("runs/child")], ())  # the child goes too
    carry_out(both)
    assert find_runs(Path("runs")) == []


def test_a_recipe_that_is_not_resolved_protects_by_its_path_also_as_seen_from_where_it_was_started(
    make_run: MakeRun, saved_run: Path, tmp_path: Path
) -> None:
    start = {"kind": "restore", "path": "runs/saved/base/checkpoints/step_00000002", "digest": None}
    make_run("child", start=start)
    assert prune(saved_run, "newest 1") == [2, 3]
    shutil.rmtree("runs/child")
    start["path"] = "saved/base/checkpoints/step_00000002"
    make_run("child", start=start, history=[{"event": "start", "directory": str(tmp_path / "runs")}])
    assert prune(saved_run, "newest 1") == [2, 3]


def test_runs_elsewhere_are_looked_at_where_the_user_says(make_run: MakeRun, saved_run: Path, tmp_path: Path) -> None:
    start = {"kind": "restore", "path": str(saved_run.absolute()), "digest": None}
    make_run("child", start=start)
    (tmp_path / "archive").mkdir()
    Path("runs/child").rename(tmp_path / "archive" / "child")
    assert plan_deletion([saved_run], ()).deletions
    with pytest.raises(UserError, match="archive/child needs it"):
        plan_deletion([saved_run], [tmp_path / "archive"])


@pytest.fixture
def study(make_run: MakeRun) -> Path:
    """A study of two nodes; the second has a link to the first one's stage."""
    make_run("study/nodes/aaa"), make_run("study/nodes/bbb")
    tail = Path("runs/study/nodes/bbb")
    (tail / "base").rename(tail / "tail")
    (tail / "base").symlink_to("../aaa/base")
    (tail.parent.parent / "study.json").write_text(json.dumps({"nodes": {"aaa": {"arms": ["x"]}}}))
    return tail.parent.parent


def test_nodes_of_a_study_are_protected_one_by_one_and_go_together(study: Path) -> None:
    with pytest.raises(UserError, match=r"the study .*study needs it; to delete the whole(.|\n)*link to it"):
        plan_deletion([study / "nodes" / "aaa"], ())
    unused = plan_deletion([study / "nodes" / "bbb"], ())  # which the study does not have any more
    assert [deletion.what for deletion in unused.deletions] == ["run"]
    plan = plan_deletion([study, study / "nodes" / "aaa"], ())
    assert [deletion.what for deletion in plan.deletions] == ["study of 2 runs"]
    carry_out(plan)
    assert not study.exists()


def test_a_study_with_a_claimed_node_is_refused(study: Path) -> None:
    with RunLock(study / "claims" / "aaa"), pytest.raises(UserError, match="is being written to"):
        plan_deletion([study], ())


def test_what_is_no_run_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run")
    (tmp_path / "study.json").write_text('{"my": "file"}')
    for path, says in (
        (Path("runs"), "name its runs"),
        (tmp_path, "neither a run"),
        (Path("nothing"), "does not exist"),
    ):
        with pytest.raises(UserError, match=says):
            plan_deletion([path], ())
    Path("link").symlink_to(run)
    with pytest.raises(UserError, match="is a link to"):
        plan_deletion([Path("link")], ())


# ---- a kill in between ----


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_deletion_that_is_killed_leaves_no_run_and_is_finished_by_the_next(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = make_run("run"), make_run("other")
    plan = plan_deletion([run], ())
    with monkeypatch.context() as patch:
        patch.setattr("pathways_lite.runs.deletion.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            carry_out(plan)
    assert [found.path for found in find_runs(Path("runs"))] == [other]
    (left,) = leftovers(Path("runs"))
    plan = plan_deletion([other], ())
    assert [deletion.what for deletion in plan.deletions] == ["run", "left of an interrupted deletion"]
    carry_out(plan)
    assert not left.exists()


def test_pruning_that_is_killed_leaves_whole_checkpoints_and_is_finished_by_the_next(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("run")
    plan = plan_pruning([run], [Rule("newest", 1)], ())
    with monkeypatch.context() as patch:
        patch.setattr("pathways_lite.checkpoints.checkpoint.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            carry_out(plan)
    assert checkpoint_steps(run / "base" / "checkpoints") == [20, 30]
    assert prune(run, "newest 1") == [30]
    assert [path.name for path in (run / "base" / "checkpoints").iterdir()] == ["step_00000030"]
