"""Stages that end once they do not improve."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.run_helpers import DieAfter, Died, RecordSamples, StopAfter, constant, digest, log_bytes, run
from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.errors import UserError
from pathways_lite.recipe import (
    Continue,
    EarlyStopping,
    Recipe,
    apply_overrides,
    stage_identity,
)
from pathways_lite.training.estimate import held_out_tokens
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.stage import StageSpec, stage_timeline


def stopping(recipe: Recipe, **fields: Any) -> Recipe:
    """A rate at which nothing improves by so much, evaluated every 2 steps: two in vain after the first end it."""
    changes = ["stages.base.evaluation.every=2", "stages.base.saving.every=3"]
    stage = apply_overrides(constant(recipe), changes).stages[0]
    early = EarlyStopping(**{"patience": 2, "min_delta": 5.0, **fields})
    return recipe.model_copy(update={"stages": (stage.model_copy(update={"early_stopping": early}),)})


def test_a_stage_stops_early_and_says_why(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert run(stopping(recipe), path) == 0
    assert CheckpointManager(path / "base" / "checkpoints").newest == 6
    summary = json.loads((path / "base" / "summary.json").read_text())
    rows = [json.loads(line) for line in (path / "base" / "log.jsonl").read_text().splitlines()]
    (event,) = (row for row in rows if row["kind"] == "event")
    assert event["event"] == "early_stop"
    assert event["step"] == summary["step"] == 6
    assert event["reason"].startswith(
        "stopped early at step 6: in 2 evaluations the held-out loss did not fall by more"
    )
    last = [row for row in rows if row["kind"] == "eval"][-1]
    assert (last["step"], last["domains"]) == (6, summary["domains"])
    # Its speed is of the 6 steps that it took: 3 evaluations, not 6.
    evaluated = 3 * held_out_tokens(StageSpec(resolve_recipe(stopping(recipe)), 0))
    seconds = json.loads((path / "base" / "ledger.json").read_text())["stage"]["seconds"]["evaluate"]
    assert summary["speed"]["evaluated_token"] == pytest.approx(seconds / evaluated, rel=0.05)
    # It is finished, and the next stage starts from its last model.
    before = digest(path, step=6)
    assert run(stopping(recipe), path) == 0
    assert digest(path, step=6) == before
    first = stopping(recipe).stages[0]
    more = first.model_copy(update={"name": "more", "start": Continue(), "budget": "1 steps", "early_stopping": None})
    samples = RecordSamples()
    assert run(recipe.model_copy(update={"stages": (first, more)}), path, samples) == 0
    assert min(samples.samples) == stage_timeline(first).sequences_before(6)


def test_a_stage_that_improves_does_not_stop(recipe: Recipe, tmp_path: Path) -> None:
    assert run(stopping(recipe, min_delta=0.0), tmp_path / "run") == 0
    assert CheckpointManager(tmp_path / "run" / "base" / "checkpoints").newest == 12


@pytest.mark.parametrize(
    "hooks",
    [StopAfter(4), StopAfter(5), StopAfter(6), DieAfter("evaluation", 6)],
    ids=["stopped at 4", "stopped at 5", "stopped at 6", "died at 6"],
)
def test_a_resumed_stage_stops_where_an_uninterrupted_one_does(recipe: Recipe, tmp_path: Path, hooks: Any) -> None:
    assert run(stopping(recipe), tmp_path / "whole") == 0
    with contextlib.suppress(Died):
        assert run(stopping(recipe), tmp_path / "run", hooks) == 128 + 15
    assert run(stopping(recipe), tmp_path / "run") == 0
    assert log_bytes(tmp_path / "run") == log_bytes(tmp_path / "whole")
    assert digest(tmp_path / "run", step=6) == digest(tmp_path / "whole", step=6)


def test_evaluations_are_part_of_the_identity_where_they_decide(recipe: Recipe) -> None:
    for base, differs in ((stopping(recipe), True), (constant(recipe), False)):
        other = apply_overrides(base, ["stages.base.evaluation.every=3"])
        assert (stage_identity(base, 0) != stage_identity(other, 0)) == differs


def test_early_stopping_needs_its_domain(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"early_stopping.domain: there is no 'tale'. Did you mean 'tales'"):
        resolve_recipe(stopping(recipe, domain="tale"))
