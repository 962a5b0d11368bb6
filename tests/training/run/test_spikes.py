"""What the guard does about a spike: halt, skip, rewind."""

from pathlib import Path

import numpy as np
import pytest

from helpers.run_helpers import TOTAL, Chain, InjectNaN, RecordSamples, StopAfter, digest, leaves, log_bytes, run
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.errors import UserError
from pathways_lite.recipe import Recipe, Saving, SpikeGuard, Stage, apply_overrides
from pathways_lite.tracking.log import read_log
from pathways_lite.training.load import load_model
from pathways_lite.training.run import checkpoints_to_keep

BAD_SAMPLE = 12  # in the batch of step 5, whose examples are 10 to 13


def with_guard(recipe: Recipe, policy: str, *more: str) -> Recipe:
    return apply_overrides(recipe, [f"stages.base.guard.policy={policy}", *(f"stages.base.guard.{m}" for m in more)])


def finite_params(path: Path) -> bool:
    loaded = load_model(path)
    return all(np.isfinite(leaf).all() for leaf in leaves(loaded.params()))


def test_halt_stops_with_a_sentence_and_good_parameters(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"halted at step 6.*nan.*checkpoint is of step 4"):
        run(recipe, tmp_path, InjectNaN(BAD_SAMPLE))
    assert finite_params(tmp_path)


def test_skip_drops_the_update_and_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    assert run(with_guard(recipe, "skip"), tmp_path, InjectNaN(BAD_SAMPLE)) == 0
    events = [row for row in read_log(tmp_path / "base" / "log.jsonl") if row["kind"] == "event"]
    assert [(row["event"], row["step"]) for row in events] == [("skip", 6)]
    assert finite_params(tmp_path)


@pytest.mark.parametrize("stopped_at", [None, 5, 8])
def test_rewind_passes_over_the_batches_and_survives_a_stop(
    recipe: Recipe, tmp_path: Path, stopped_at: int | None
) -> None:
    """PaLM section 5.1. The result must not depend on being stopped after the rewind."""
    rewinding = with_guard(recipe, "rewind", "rewind_steps=2", "skip_batches=3")
    record = RecordSamples()
    spike = Chain(InjectNaN(BAD_SAMPLE), record)
    if stopped_at is not None:
        run(rewinding, tmp_path, Chain(spike, StopAfter(stopped_at)))
    assert run(rewinding, tmp_path, spike) == 0

    # The spike is in batch 5 (0-based): back to step 3. Passed over are the batches of steps 3, 4 and 5: 2 + 2 + 4.
    cursor = read_manifest(CheckpointManager(tmp_path / "base" / "checkpoints").path(TOTAL)).meta["cursor"]
    assert cursor == {"first_sequence": 0, "skips": [[3, 8]]}
    assert finite_params(tmp_path)
    assert record.samples.count(BAD_SAMPLE) == 1
    events = [row for row in read_log(tmp_path / "base" / "log.jsonl") if row["kind"] == "event"]
    assert [row["event"] for row in events] == ["rewind"]

    reference = tmp_path / "reference"
    assert run(rewinding, reference, InjectNaN(BAD_SAMPLE)) == 0
    assert log_bytes(tmp_path) == log_bytes(reference)
    assert digest(tmp_path) == digest(reference)


def test_rewinds_reach_back_far_enough() -> None:
    guard, saving = SpikeGuard(policy="rewind", rewind_steps=100), Saving(every=30, keep=1)
    stage = Stage.model_construct(guard=guard, saving=saving)
    kept = checkpoints_to_keep(stage)
    # Seen one step late, just before a save: the oldest kept must still lie 100 steps before the spike.
    assert (kept - 1) * 30 >= 101
