"""A run that was stopped, died, or lost its newest checkpoint equals the uninterrupted one, bit for bit."""

import io
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from helpers.run_helpers import TOTAL, DieAfter, Died, StopAfter, digest, log_bytes, run
from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.recipe import Recipe, apply_overrides, stage_identity
from pathways_lite.run_directory import RunDirectory
from pathways_lite.tracking.log import read_log
from pathways_lite.tracking.run_data import read_run
from pathways_lite.training.compile import StepCompiler
from pathways_lite.training.components import Components
from pathways_lite.training.initialize import initialize_stage
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.run import train_run
from pathways_lite.training.stage import StageSpec


@pytest.mark.parametrize("step", range(1, TOTAL + 1))
def test_a_run_stopped_at_any_step_resumes_bit_for_bit(
    step: int, recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    assert run(recipe, path, StopAfter(step)) == 128 + 15
    assert CheckpointManager(path / "base" / "checkpoints").newest == step
    assert run(recipe, path) == 0
    assert log_bytes(path) == log_bytes(uninterrupted)
    assert digest(path) == digest(uninterrupted)


@pytest.mark.parametrize(("event", "step"), [("evaluation", 6), ("step", 7), ("save", 8)])
def test_a_run_that_dies_at_a_bad_moment_resumes_bit_for_bit(
    event: str, step: int, recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    """Died without saying so: rows beyond the newest checkpoint are there and must be forgotten."""

    path = tmp_path / "run"
    with pytest.raises(Died):
        run(recipe, path, DieAfter(event, step))
    assert run(recipe, path) == 0
    assert log_bytes(path) == log_bytes(uninterrupted)
    assert digest(path) == digest(uninterrupted)


def test_a_signal_while_a_later_batch_size_compiles_loses_no_step(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    original = StepCompiler.get

    def get(self: StepCompiler, sequences: int, stopped: Callable[[], object], seq_len: int | None = None) -> Any:
        if sequences == 4:  # the ramp's second size, from step 5 on
            signal.raise_signal(signal.SIGTERM)
            # A thread hears of it, and may be slower than a compilation that has been done before.
            deadline = time.monotonic() + 60
            while not stopped() and time.monotonic() < deadline:
                time.sleep(0.001)
        return original(self, sequences, stopped, seq_len)

    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepCompiler, "get", get)
        run(recipe, path)
    assert CheckpointManager(path / "base" / "checkpoints").newest == 5
    assert run(recipe, path) == 0
    assert log_bytes(path) == log_bytes(uninterrupted)
    assert digest(path) == digest(uninterrupted)


def test_an_evaluation_on_resuming_may_be_interrupted_again(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    hooks = StopAfter(6)
    run(recipe, path, hooks)
    # The stop is still requested: the evaluation that is due comes first, and is cut short again.
    assert run(recipe, path, hooks) == 128 + 15
    assert CheckpointManager(path / "base" / "checkpoints").newest == 6
    assert run(recipe, path) == 0
    assert log_bytes(path) == log_bytes(uninterrupted)
    assert digest(path) == digest(uninterrupted)


def test_a_damaged_newest_checkpoint_is_passed_over(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(recipe, path, StopAfter(9))
    newest = CheckpointManager(path / "base" / "checkpoints").path(9)
    array = max((file for file in newest.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    content = bytearray(array.read_bytes())
    content[len(content) // 2] ^= 1
    array.write_bytes(content)
    assert run(recipe, path) == 0
    assert log_bytes(path) == log_bytes(uninterrupted)
    assert digest(path) == digest(uninterrupted)


def test_a_finished_run_is_left_alone(recipe: Recipe, uninterrupted: Path) -> None:
    before = log_bytes(uninterrupted), digest(uninterrupted)
    assert run(recipe, uninterrupted) == 0
    assert (log_bytes(uninterrupted), digest(uninterrupted)) == before


@pytest.mark.parametrize("damage", ["deleted", "emptied", "shortened", "without a row", "of other content"])
def test_a_log_that_has_lost_rows_is_noticed_and_marked_once(
    damage: str, recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    run(recipe, path, StopAfter(9))
    log = path / "base" / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    if damage == "deleted":
        log.unlink()
    else:
        kept = {"emptied": 0, "shortened": 4}.get(damage, len(lines))
        lines[3:4] = {"without a row": [], "of other content": [lines[2]]}.get(damage, lines[3:4])
        log.write_bytes(b"".join(lines[:kept]))
    hooks = StopAfter(9)
    hooks.requested = 15
    for more in (hooks, None):  # the first is stopped before it can save
        output = io.StringIO()
        train_run(recipe, path, console=Console(file=output, width=1000), hooks=more)
        assert "lost rows from before step 9" in output.getvalue()
    events = [row for row in read_log(log) if row["kind"] == "event"]
    assert [(row["event"], row["step"]) for row in events] == [("lost_rows", 9)]
    assert any("has a hole" in problem for problem in read_run(path).problems)
    assert digest(path) == digest(uninterrupted)


def test_rows_that_were_lost_are_made_again_from_the_checkpoint_before_them(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    run(recipe, path, StopAfter(9))
    log = path / "base" / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:6]))  # beyond step 4
    for step in (8, 9):
        shutil.rmtree(CheckpointManager(path / "base" / "checkpoints").path(step))
    assert run(recipe, path) == 0
    assert log_bytes(path) == log_bytes(uninterrupted)


def test_an_evaluation_at_the_start_is_that_of_the_first_parameters(recipe: Recipe, tmp_path: Path) -> None:
    asking = apply_overrides(recipe, ["stages.base.evaluation.at_start=true"])
    assert stage_identity(asking, 0) == stage_identity(recipe, 0), "the same training"
    assert run(asking, tmp_path / "whole") == 0
    evaluations = [row for row in read_log(tmp_path / "whole/base/log.jsonl") if row["kind"] == "eval"]
    assert evaluations[0]["step"] == 0
    assert [row["step"] for row in evaluations].count(0) == 1
    components = Components(StageSpec(resolve_recipe(asking), 0))
    start = initialize_stage(components, RunDirectory(tmp_path / "other"), lambda: 0)
    scored = components.evaluator.evaluate(start.state.params)
    losses = {name: result["loss"] for name, result in evaluations[0]["domains"].items()}
    assert losses == {name: pytest.approx(result.to_json()["loss"], rel=1e-6) for name, result in scored.items()}
    assert run(asking, tmp_path / "stopped", StopAfter(2)) != 0
    assert run(asking, tmp_path / "stopped") == 0
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")
    assert log_bytes(tmp_path / "stopped") == log_bytes(tmp_path / "whole")
