"""A stage that recipes share is trained once, and nothing of the result shows that it was shared."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.errors import UserError
from pathways_lite.recipe import Recipe, read_recipe
from pathways_lite.run_directory import RunDirectory
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import Study, build_nodes, shared_nodes
from pathways_lite.tracking.run_data import read_run

Train = Callable[[Recipe, Path], str]


def test_a_shared_stage_is_one_node(study: Study) -> None:
    nodes = build_nodes(study.recipes)
    assert [node.stage.name for node in nodes.values()] == ["trunk", "tail", "tail"]
    assert [node.users for node in shared_nodes(nodes.values())] == [("slow", "fast")]


def test_shared_and_separate_training_give_the_same_bits(
    store: StudyStore, study: Study, train: Train, tmp_path: Path
) -> None:
    label, recipe = list(study.recipes.items())[-1]  # whose trunk was trained for another
    alone = RunDirectory(tmp_path / label)
    train(recipe, alone.path)
    (identity,) = (node.identity for node in store.nodes.values() if label in node.is_last)
    node = store.run_directory(identity)
    for stage in ("trunk", "tail"):
        assert _log(node, stage) == _log(alone, stage)
        assert _digest(node, stage) == _digest(alone, stage)
    accounts = [run.stage("tail").ledger["total"] for run in (node, alone)]  # type: ignore[index]
    assert accounts[0]["flops"] == accounts[1]["flops"] > node.stage("tail").ledger["stage"]["flops"]  # type: ignore[index]
    assert read_run(node.path).is_finished


def test_a_shared_stage_is_trained_once(store: StudyStore, train: Train) -> None:
    trunk, *tails = store.nodes
    said = [
        train(read_recipe(store.run_directory(identity).recipe_path), store.run_directory(identity).path)
        for identity in tails
    ]
    assert all("nothing is left to train" in " ".join(text.split()) for text in said)
    for tail in tails:
        assert store.run_directory(tail).stage("trunk").link_target == store.run_directory(trunk).path.resolve()
        parent = read_manifest(_newest(store.run_directory(tail), "tail")).meta["lineage"]["parent"]
        assert parent == _digest(store.run_directory(trunk), "trunk")
    events = [row for row in read_run(store.run_directory(trunk).path).stages[0].timings if row["kind"] == "compile"]
    assert len(events) == 1


def test_what_another_run_has_to_train_is_not_trained_here(store: StudyStore, train: Train, tmp_path: Path) -> None:
    elsewhere = StudyStore(tmp_path, store.nodes)
    _, tail, _ = store.nodes
    run = elsewhere.prepare(tail)
    with pytest.raises(UserError, match="which is not finished; train that run first"):
        train(read_recipe(run.recipe_path), run.path)
    trunk = run.stage("trunk").link_target
    assert trunk is not None
    (trunk / "trunk").mkdir(parents=True)
    (trunk / "trunk" / "summary.json").write_text(json.dumps({"identity": "another"}))
    with pytest.raises(UserError, match="has the identity another"):
        train(read_recipe(run.recipe_path), run.path)


def test_names_may_change_between_plans(store: StudyStore, study: Study) -> None:
    """A name is no part of an identity: what is trained is found under the name that it was trained with."""

    def renamed(recipe: Recipe) -> Recipe:
        stages = tuple(stage.model_copy(update={"name": f"new_{stage.name}"}) for stage in recipe.stages)
        return recipe.model_copy(update={"stages": stages})

    again = StudyStore(store.path, build_nodes({label: renamed(recipe) for label, recipe in study.recipes.items()}))
    assert set(again.states().values()) == {"done"}
    for identity in again.nodes:
        assert again.prepare(identity).recipe().stages[-1].name in ("trunk", "tail")


def _newest(run: RunDirectory, stage: str) -> Path:
    checkpoints = CheckpointManager(run.stage(stage).checkpoints)
    assert checkpoints.newest is not None
    return checkpoints.path(checkpoints.newest)


def _digest(run: RunDirectory, stage: str) -> str:
    return read_manifest(_newest(run, stage)).digest


def _log(run: RunDirectory, stage: str) -> bytes:
    return (run.stage(stage).path / "log.jsonl").read_bytes()
