"""Starting from the average of checkpoints, in memory and from file to file."""

from pathlib import Path

import numpy as np
import pytest

from helpers.run_helpers import digest, leaves
from pathways_lite.checkpoints import CheckpointManager, fsck, restore
from pathways_lite.cli.merge import merge
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.recipe import Ingredient, Merge, Recipe, apply_overrides, stage_identity
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.components import Components
from pathways_lite.training.initialize import CheckpointState, initialize_stage
from pathways_lite.training.load import load_model
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.stage import StageSpec

STEPS = (12, 8, 4)  # of the checkpoints, the newest first


def merged(recipe: Recipe, start: Merge) -> Recipe:
    return recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update={"start": start}),)})


def begin(recipe: Recipe, start: Merge, tmp_path: Path) -> CheckpointState:
    return initialize_stage(
        Components(StageSpec(resolve_recipe(merged(recipe, start)), 0)), RunDirectory(tmp_path), lambda: 0
    )


@pytest.fixture
def saved(uninterrupted: Path) -> list[list[np.ndarray]]:
    """The parameters of the run's checkpoints, the newest first."""
    like = load_model(uninterrupted).components.abstract_state.params
    paths = CheckpointManager(uninterrupted / "base" / "checkpoints")
    return [leaves(restore(paths.path(step), like, "params").arrays) for step in STEPS]


def assert_average(found: object, saved: list[list[np.ndarray]], weights: list[float]) -> None:
    for array, *parts in zip(leaves(found), *saved, strict=True):
        expected = np.average(np.float64(parts), axis=0, weights=weights)
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-7)


def test_the_newest_checkpoints_of_a_run_are_averaged_by_their_age_and_paid_for_once(
    recipe: Recipe, uninterrupted: Path, saved: list[list[np.ndarray]], tmp_path: Path
) -> None:
    position = begin(recipe, Merge(checkpoints=str(uninterrupted), last=3, decay=0.5), tmp_path)
    assert_average(position.state.params, saved, [4, 2, 1])
    meta = load_model(uninterrupted).manifest.meta
    assert position.inherited == Ledger.from_json(meta["ledger"]["total"])
    assert position.cursor.first_sequence == 10 + 7 * 4  # where the newest one stopped
    assert position.parent is not None
    assert position.parent.split()[0] == digest(uninterrupted)


def test_a_resolved_merge_names_its_checkpoints_and_stays_as_it_is(recipe: Recipe, uninterrupted: Path) -> None:
    found = resolve_recipe(merged(recipe, Merge(checkpoints=str(uninterrupted), last=2)))
    start = found.stages[0].start
    assert isinstance(start, Merge)
    assert [Path(one.path).name for one in start.checkpoints] == ["step_00000012", "step_00000008"]
    assert resolve_recipe(found) == found
    heavier = apply_overrides(found, ["stages.base.start.checkpoints.0.weight=3"])
    assert stage_identity(heavier, 0) != stage_identity(found, 0)


def test_files_are_averaged_as_in_memory(
    uninterrupted: Path, saved: list[list[np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathways_lite.conversion.grow_and_merge.CHUNK_NBYTES", 1000)  # many pieces
    paths = [str(CheckpointManager(uninterrupted / "base" / "checkpoints").path(step)) for step in STEPS]
    merge(tmp_path / "out", paths, weights="1,0,3", last=1, decay=1.0, greedy=False)
    found = load_model(tmp_path / "out")
    assert_average(found.params(), saved, [1, 0, 3])
    assert all(finding.ok for finding in fsck(tmp_path / "out"))
    assert isinstance(found.stage.start, Merge)
    total = Ledger.from_json(load_model(uninterrupted).manifest.meta["ledger"]["total"])
    assert Ledger.from_json(found.manifest.meta["ledger"]["total"]) == total


def test_what_cannot_be_merged_is_refused(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    path = str(uninterrupted)
    with pytest.raises(UserError, match="has 3 checkpoints, not 4"):
        resolve_recipe(merged(recipe, Merge(checkpoints=path, last=4)))
    with pytest.raises(UserError, match=r"start=Merge\(\) needs checkpoints"):
        resolve_recipe(merged(recipe, Merge()))
    with pytest.raises(UserError, match="made with the checkpoint abc"):
        resolve_recipe(merged(recipe, Merge(checkpoints=(Ingredient(path=path, digest="abc"),))))
    deeper = apply_overrides(merged(recipe, Merge(checkpoints=path)), ["stages.base.model.n_layers=3"])
    with pytest.raises(UserError, match="is of another model: n_layers=2, not 3"):
        initialize_stage(Components(StageSpec(resolve_recipe(deeper), 0)), RunDirectory(tmp_path), lambda: 0)
