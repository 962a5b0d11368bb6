"""How a stage starts: going on from the one before, or from another run's checkpoint."""

from pathlib import Path

import pytest

from helpers.run_helpers import TOTAL, RecordSamples, add_stage, digest, leaves, run
from pathways_lite.checkpoints import CheckpointManager, read_manifest, restore
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger
from pathways_lite.recipe import Continue, Recipe, Restore, apply_overrides
from pathways_lite.run_directory import RunDirectory
from pathways_lite.tracking.log import read_log
from pathways_lite.training.load import load_model


def test_a_continued_stage_goes_on_with_parameters_data_and_ledger(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    record = RecordSamples()
    assert run(add_stage(recipe, "stages.more.budget=4 steps"), tmp_path, record) == 0
    assert digest(tmp_path) == digest(uninterrupted)  # a shared first stage computes the same
    manifest = read_manifest(CheckpointManager(tmp_path / "more" / "checkpoints").path(4))
    assert manifest.meta["lineage"]["parent"] == digest(tmp_path)
    assert manifest.meta["cursor"]["first_sequence"] == 10 + 7 * 4  # 5 steps of 2 and 7 of 4 before
    assert record.samples == list(range(10 + 7 * 4 + 8))  # no sequence twice, none left out
    total = Ledger.from_json(manifest.meta["ledger"]["total"])
    assert total.steps == 16
    row = read_log(tmp_path / "more" / "log.jsonl")[-1]
    assert row["total_tokens"] == total.tokens == row["tokens"] + 38 * 32


@pytest.mark.parametrize("start", [Continue(optimizer="keep"), Continue(optimizer="reset")])
def test_the_optimizer_is_kept_or_reset(recipe: Recipe, tmp_path: Path, start: Continue) -> None:
    """With a learning rate of nearly nothing the first update shows which moments were there."""
    two = add_stage(recipe, "stages.more.budget=1 steps", "stages.more.optimizer.learning_rate=1e-30", start=start)
    assert run(two, tmp_path) == 0
    state = load_model(tmp_path / "more").components.abstract_state
    path = CheckpointManager(tmp_path / "more" / "checkpoints").path(1)
    counts = [leaf for leaf in leaves(restore(path, state.opt_state, "opt_state").arrays) if leaf.ndim == 0]
    assert {int(count) for count in counts} == {TOTAL + 1 if start.optimizer == "keep" else 1}


def test_restore_starts_from_any_run(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    base = recipe.stages[0].model_copy(update={"start": Restore(path=str(uninterrupted))})
    restored = recipe.model_copy(update={"stages": (base,)})
    assert run(apply_overrides(restored, ["stages.base.budget=1 steps"]), tmp_path) == 0
    manifest = read_manifest(CheckpointManager(tmp_path / "base" / "checkpoints").path(1))
    assert manifest.meta["lineage"]["parent"] == digest(uninterrupted)
    assert RunDirectory(tmp_path).recipe().stages[0].start.digest == digest(uninterrupted)  # type: ignore[union-attr]


def test_a_checkpoint_of_another_shape_is_refused_with_the_difference(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    base = recipe.stages[0].model_copy(update={"start": Restore(path=str(uninterrupted))})
    wider = apply_overrides(recipe.model_copy(update={"stages": (base,)}), ["stages.base.model.d_ff=96"])
    with pytest.raises(UserError, match=r"64.*96"):
        run(wider, tmp_path)
