"""What the guard does about a spike: halt, skip, rewind."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.tree_util import keystr

from helpers.run_helpers import TOTAL, Chain, InjectNaN, RecordSamples, StopAfter, digest, leaves, log_bytes, run
from pathways_lite.batch import Batch
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.errors import UserError
from pathways_lite.evaluation.held_out import HeldOutLoss, StageEvaluator
from pathways_lite.recipe import Recipe, Saving, SpikeGuard, Stage, apply_overrides
from pathways_lite.tracking.log import read_log
from pathways_lite.training.hooks import TrainerHooks
from pathways_lite.training.load import load_model
from pathways_lite.training.loop import Trainer
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


class DamageOptimizer(TrainerHooks):
    """Puts a value into one element of the optimizer's state before a step, once."""

    def __init__(self, trainer: list[Trainer], moment: str, value: float, step: int) -> None:
        self.trainer, self.moment, self.value, self.step = trainer, moment, value, step

    def before_step(self, stage: str, step: int, batch: Batch) -> Batch:
        if step == self.step:
            self.step = -1

            def damage(path: Any, leaf: jax.Array) -> jax.Array:
                return leaf.at[0, 0].set(self.value) if f".{self.moment}['embedding']" in keystr(path) else leaf

            (trainer,) = self.trainer
            opt_state = jax.tree.map_with_path(damage, trainer.state.opt_state)
            trainer.state = trainer.state._replace(opt_state=opt_state)
        return batch


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """The trainer of the run in progress."""
    trainers: list[Trainer] = []
    train = Trainer.train

    def remember(self: Trainer) -> None:
        trainers[:] = [self]
        train(self)

    monkeypatch.setattr(Trainer, "train", remember)
    return trainers


@pytest.mark.parametrize("policy", ["halt", "skip"])
@pytest.mark.parametrize(
    ("moment", "value", "step", "sentence"),
    [
        ("mu", np.nan, 5, "halted at step 6: the update of step 5 is not finite.*checkpoint is of step 4"),
        ("mu", np.nan, TOTAL - 1, "halted at step 12: the update of step 11 is not finite.*checkpoint is of step 8"),
        ("nu", np.inf, 6, r"halted at step 8: NaN or infinities in 1.*nu.embedding.*checkpoint is of step 4"),
    ],
)
def test_a_state_that_is_not_finite_is_never_saved(
    policy: str,
    moment: str,
    value: float,
    step: int,
    sentence: str,
    recipe: Recipe,
    trainers: list[Trainer],
    uninterrupted: Path,
    tmp_path: Path,
) -> None:
    """Whether every parameter is lost at once, or the optimizer stands still without a word."""
    with pytest.raises(UserError, match=sentence):
        run(with_guard(recipe, policy), tmp_path, DamageOptimizer(trainers, moment, value, step))
    assert finite_params(tmp_path)
    assert not (tmp_path / "base" / "summary.json").exists()
    # The fault was the machine's, so the same command ends well.
    assert run(with_guard(recipe, policy), tmp_path) == 0
    assert digest(tmp_path) == digest(uninterrupted)


def test_a_rewind_undoes_an_update_that_is_not_finite(recipe: Recipe, trainers: list[Trainer], tmp_path: Path) -> None:
    rewinding = with_guard(recipe, "rewind", "rewind_steps=1", "skip_batches=1")
    assert run(rewinding, tmp_path, DamageOptimizer(trainers, "mu", np.nan, 6)) == 0
    assert finite_params(tmp_path)
    events = [row["event"] for row in read_log(tmp_path / "base" / "log.jsonl") if row["kind"] == "event"]
    assert events == ["rewind"]


class BreakLosses(TrainerHooks):
    """Makes the loss NaN from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_step(self, stage: str, step: int, batch: Batch) -> Batch:
        return batch._replace(loss_weights=batch.loss_weights * np.float32(np.nan)) if step >= self.step else batch


def test_checkpoints_from_before_dropped_updates_are_kept(recipe: Recipe, tmp_path: Path) -> None:
    skipping = apply_overrides(
        with_guard(recipe, "skip", "window=6"), ["stages.base.saving.every=1", "stages.base.saving.keep=2"]
    )
    with pytest.raises(UserError, match=r"halted at step 10.*checkpoint is of step 4 \(.*step_00000004\)"):
        run(skipping, tmp_path, BreakLosses(4))
    checkpoints = CheckpointManager(tmp_path / "base" / "checkpoints")
    assert checkpoints.steps() == [3, 4, 5, 6, 7, 8, 9]
    # Losses are well again: so is the number of checkpoints.
    assert run(skipping, tmp_path) == 0
    assert checkpoints.steps() == [TOTAL - 1, TOTAL]


def test_a_stage_whose_held_out_loss_is_not_finite_is_not_done(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {"poems": HeldOutLoss(nll=float("nan"), tokens=5, bytes=5, documents=1)}
    with monkeypatch.context() as patch:
        patch.setattr(StageEvaluator, "evaluate", lambda *_, **__: results)
        with pytest.raises(UserError, match="held-out loss is not finite on poems"):
            run(recipe, tmp_path)
        with pytest.raises(UserError, match="held-out loss is not finite on poems"):  # as the log says
            run(recipe, tmp_path)
    assert not (tmp_path / "base" / "summary.json").exists()
