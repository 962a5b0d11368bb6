"""A loop of one's own takes the trainer's steps: losses, log and checkpoints are those of `train`, bit for bit."""

import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import pathways_lite as pl
from helpers.run_helpers import TOTAL, digest, leaves, log_bytes
from pathways_lite.recipe import Continue, Recipe, Restore, apply_overrides
from pathways_lite.tracking.log import read_log

QUIET = {"track": (), "samples": False, "page": False}


def rows(path: Path, kind: str = "train") -> list[dict]:
    return [row for row in read_log(path / "base" / "log.jsonl") if row["kind"] == kind]


def run_of(trained: pl.Trained) -> Path:
    return trained.checkpoint.path.parents[2]


def test_a_loop_has_the_losses_the_log_and_the_checkpoint_of_train(
    recipe: Recipe, trained: pl.Trained, tmp_path: Path
) -> None:
    losses = []
    with pl.Loop(recipe, tmp_path / "own", **QUIET) as loop:
        for step in loop:
            losses.append(step()["loss"])
    assert [np.float32(row["loss"]) for row in rows(run_of(trained))] == losses
    assert log_bytes(tmp_path / "own") == log_bytes(run_of(trained))
    for at in (4, 8, TOTAL):
        assert digest(tmp_path / "own", step=at) == digest(run_of(trained), step=at)
    assert pl.load(tmp_path / "own").ledger.tokens == trained.ledger.tokens
    assert (tmp_path / "own" / "base" / "summary.json").is_file()


def test_a_loop_that_is_left_continues_from_what_it_saved_and_train_continues_it(
    recipe: Recipe, trained: pl.Trained, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    with pl.Loop(recipe, path, **QUIET) as loop:
        for step in loop:
            step()
            if step.number == 2:
                assert loop.save() == path / "base" / "checkpoints" / "step_00000003"
                break
    with pl.Loop(recipe, path, **QUIET) as loop:
        numbers = []
        for step in loop:
            numbers.append(step.number)
            step()
            if step.number == 6:
                break
    assert numbers == [3, 4, 5, 6]
    again = pl.train(recipe, path, **QUIET)  # from step 4, which the recipe saves
    assert log_bytes(path) == log_bytes(run_of(trained))
    assert again.checkpoint.manifest.digest == trained.checkpoint.manifest.digest


def test_what_a_loop_shows_is_what_its_steps_use(recipe: Recipe, tmp_path: Path) -> None:
    with pl.Loop(recipe, tmp_path / "own", **QUIET) as loop:
        for step in loop:
            whole = loop.batch(step.number)
            np.testing.assert_array_equal(whole.tokens, step.batch.tokens)
            before = jax.tree.map(np.asarray, loop.state)
            by_hand, its_metrics = jax.jit(loop.step_function)(before, whole, loop.clock(step.number))
            metrics = step()
            np.testing.assert_allclose(its_metrics["loss"], metrics["loss"], rtol=1e-5)
            for one, other in zip(leaves(by_hand.params), leaves(loop.state.params), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
            assert set(loop.evaluate()["domains"]) == {"poems", "tales"}
            assert loop.stage.name == "base"
            assert loop.path == tmp_path / "own"
            break


def test_a_changed_batch_or_state_is_in_the_log(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "own"
    with pl.Loop(recipe, path, **QUIET) as loop:
        for step in loop:
            if step.number == 1:
                step(step.batch._replace(loss_weights=np.zeros_like(step.batch.loss_weights)))
            else:
                step()
            if step.number == 2:
                zeros = jax.tree.map(lambda leaf: 0 * leaf, loop.state.params)
                loop.state = loop.state._replace(params=zeros)
    events = [(row["event"], row["step"]) for row in rows(path, "event")]
    assert events == [("own_batch", 2), ("own_state", 3)]
    assert [row["loss"] for row in rows(path)][1] == 0


def test_a_loop_goes_through_all_stages(recipe: Recipe, tmp_path: Path) -> None:
    base = recipe.stages[0]
    more = base.model_copy(update={"name": "more", "start": Continue(), "budget": "3 steps", "batch_size": 2})
    short = base.model_copy(update={"budget": "2 steps", "batch_size": 2})
    chain = recipe.model_copy(update={"stages": (short, more)})
    with pl.Loop(chain, tmp_path / "chain", **QUIET) as loop:
        seen = [(loop.stage.name, step.number, bool(step())) for step in loop]
    assert seen == [("base", 0, True), ("base", 1, True), ("more", 0, True), ("more", 1, True), ("more", 2, True)]
    assert pl.load(tmp_path / "chain").stage.name == "more"


def test_a_loop_goes_back_where_the_guard_does(recipe: Recipe, tmp_path: Path) -> None:
    guard = ["policy=rewind", "rewind_steps=1", "skip_batches=1"]
    changes = [*(f"stages.base.guard.{change}" for change in guard), "stages.base.saving.every=2"]
    numbers: list[int] = []
    with pl.Loop(apply_overrides(recipe, changes), tmp_path / "own", **QUIET) as loop:
        for step in loop:
            is_broken = step.number == 5 and 5 not in numbers
            numbers.append(step.number)
            step(step.batch._replace(loss_weights=np.nan * step.batch.loss_weights) if is_broken else None)
            if is_broken:
                assert loop.save() is None  # the guard goes back instead
    assert numbers == [*range(6), *range(4, TOTAL)]
    assert [row["event"] for row in rows(tmp_path / "own", "event")] == ["rewind"]


def test_mistakes_in_a_loop_are_sentences(recipe: Recipe, tmp_path: Path) -> None:
    loop = pl.Loop(recipe, tmp_path / "own", **QUIET)
    with pytest.raises(pl.UserError, match=r"with pl\.Loop"):
        next(iter(loop))
    with loop:
        with pytest.raises(pl.UserError, match="a stage begins with the first step"):
            _ = loop.state
        steps = iter(loop)
        step = next(steps)
        step()
        with pytest.raises(pl.UserError, match="step 0 was taken"):
            step()
        with pytest.raises(pl.UserError, match="there is no step 12"):
            loop.batch(TOTAL)
        next(steps)
        with pytest.raises(pl.UserError, match="step 1 was not taken"):
            next(steps)
    with pytest.raises(pl.UserError, match="runs once"):
        iter(loop)


def test_a_signal_saves_the_step_and_interrupts_the_loop(
    recipe: Recipe, trained: pl.Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"

    def train() -> None:
        with pl.Loop(recipe, path, **QUIET) as loop:
            for step in loop:
                step()
                if step.number == 4:
                    signal.raise_signal(signal.SIGINT)
                    deadline = time.monotonic() + 60
                    while not loop._context.stop.pending_signal and time.monotonic() < deadline:  # a thread hears of it
                        time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        train()
    assert "Stopped at step 5 of 12" in capfd.readouterr().err
    assert pl.load(path).checkpoint.manifest.step == 5
    assert pl.train(path, **QUIET).checkpoint.manifest.digest == trained.checkpoint.manifest.digest


def test_a_run_may_start_from_what_a_model_saved(recipe: Recipe, trained: pl.Trained, tmp_path: Path) -> None:
    saved = trained.save(tmp_path / "saved")
    stage = recipe.stages[0].model_copy(update={"start": Restore(path=str(tmp_path / "saved")), "budget": "1 steps"})
    with pl.Loop(recipe.model_copy(update={"stages": (stage,)}), tmp_path / "more", **QUIET) as loop:
        for step in loop:
            for one, other in zip(leaves(loop.state.params), leaves(saved.params), strict=True):
                np.testing.assert_array_equal(one, other)
            step()
