"""Going on from a run: trained longer, branched off a step, on other machines and corpus places."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.run_helpers import RecordSamples, StopAfter, constant, describe, digest, run
from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.recipe import (
    Constant,
    Continue,
    Recipe,
    Restore,
    apply_overrides,
    write_recipe,
)
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.begun import stage_states
from pathways_lite.training.estimate import estimate_recipe
from pathways_lite.training.going_on import branched, extended
from pathways_lite.training.larger_budget import ignores_budget
from pathways_lite.training.load import load_model
from pathways_lite.training.optimizers import learning_rate_fn
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.stage import stage_timeline


def params(path: Path) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_model(path).params())]


# ---- longer ----


def test_an_extension_is_one_stage_more_that_holds_the_rate(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    longer = extended(RunDirectory(path), "25 %")
    more = longer.stages[1]
    assert more.name == "base_more"
    assert more.start == Continue(optimizer="keep")
    assert more.budget.n == 3
    # The last rate of the schedule, its next value, is held.
    base = longer.stages[0]
    timeline = stage_timeline(base)
    last = float(learning_rate_fn(base.optimizer, timeline)(timeline.clock(timeline.total_steps)))
    assert more.optimizer.learning_rate == pytest.approx(last)
    assert more.optimizer.schedule == Constant()
    assert more.batch_size == base.ramp.steps[-1][1]
    samples = RecordSamples()
    assert run(longer, path, samples) == 0
    first = timeline.sequences_before(timeline.total_steps)
    assert samples.samples == list(range(first, first + len(samples.samples)))
    assert extended(RunDirectory(path), "25 %").stages[2].name == "base_more_2"
    # The recipe that the run began with is trained, and does not make it forget its extension.
    assert run(recipe, path) == 0
    assert [stage.name for stage in RunDirectory(path).recipe().stages] == ["base", "base_more"]


def test_an_extension_that_was_stopped_is_continued_by_the_same_call(
    recipe: Recipe, uninterrupted: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    run(extended(RunDirectory(path), "4 steps"), path, StopAfter(2, "base_more"))
    with pytest.raises(UserError, match=r"'base_more' of .* is not finished; finish it first: pathways-lite train"):
        extended(RunDirectory(path), "5 steps")
    again = extended(RunDirectory(path), "4 steps")
    assert [stage.name for stage in again.stages] == ["base", "base_more"]
    assert run(again, path) == 0
    assert CheckpointManager(path / "base_more" / "checkpoints").newest == 4


def test_a_dry_run_knows_what_is_done(recipe: Recipe, recipe_file: Path, uninterrupted: Path, tmp_path: Path) -> None:
    def dry_run(*words: str | Path) -> str:
        result = CliRunner().invoke(app, ["train", *map(str, words), "--dry-run"])
        assert result.exit_code == 0, result.output
        return result.output

    path = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    output = dry_run(path)
    assert "base: finished\n" in output
    assert "nothing is left to train" in output
    assert "about" not in output
    output = dry_run(path, "--extend", "25 %")
    assert "base: finished\n" in output
    assert output.count("about") == 2, "the new stage, and the sum"
    assert "all that is left: about" in output
    assert "base_more: data continues at sequence" in output
    assert "needs another --out" in dry_run(recipe_file, "--out", path, "stages.base.optimizer.learning_rate=1e-4")
    stopped = tmp_path / "stopped"
    run(recipe, stopped, StopAfter(8, "base"))
    first = stage_timeline(recipe.stages[0]).sequences_before(8)
    assert f"base: continues at step 8 of 12\nbase: data continues at sequence {first:,}\n" in dry_run(stopped)
    (row,) = json.loads(dry_run(stopped, "--json"))
    assert (row["first_step"], row["finished"], row["learning_rates"]) == (8, False, {"learning_rate": 3e-3})
    shape, whole = RunDirectory(stopped).recipe(), tmp_path / "whole"
    left, of_all = (describe_estimate(shape, path) for path in (stopped, whole))
    assert 0 < left < of_all


def describe_estimate(recipe: Recipe, path: Path) -> float:
    """Return the seconds of training that are left in a run directory."""
    states = stage_states(recipe, RunDirectory(path))
    return sum(estimate.seconds.train for estimate in estimate_recipe(recipe, calibrate=False, states=states))


def test_a_larger_budget_continues_in_a_dry_run_too(recipe: Recipe, tmp_path: Path) -> None:
    for budget in ("8 steps", "12 steps"):
        resolved = resolve_recipe(constant(recipe, budget))
        if budget == "8 steps":
            assert run(resolved, tmp_path) == 0
    (state,) = stage_states(resolved, RunDirectory(tmp_path))
    assert (state.step, state.finished, state.describe(12)) == (8, False, "continues at step 8 of 12")


def test_what_cannot_be_extended_is_said(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    zero = constant(recipe).stages[0].optimizer.model_copy(update={"schedule": {"kind": "linear"}})
    decayed = recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update={"optimizer": zero}),)})
    path = tmp_path / "run"
    assert run(decayed, path) == 0
    with pytest.raises(UserError, match="left at a learning rate of 0, which cannot be held; give one"):
        extended(RunDirectory(path), "10 %")
    rate = "stages.base_more.optimizer.learning_rate=1e-3"
    assert extended(RunDirectory(path), "10 %", [rate]).stages[1].optimizer.learning_rate == 1e-3
    with pytest.raises(UserError, match="unknown unit 'apples'"):
        extended(RunDirectory(path), "3 apples", [rate])
    (path / "base" / "summary.json").unlink()
    with pytest.raises(UserError, match="finish it first"):
        extended(RunDirectory(path), "10 %")


@pytest.mark.parametrize("budgets", [("8 steps", "12 steps"), ("600 tokens", "1400 tokens")])
def test_a_larger_budget_continues_a_stage_whose_steps_do_not_depend_on_it(
    recipe: Recipe, tmp_path: Path, budgets: tuple[str, str]
) -> None:
    for budget in budgets:
        assert run(constant(recipe, budget), tmp_path / "grown") == 0
    assert run(constant(recipe, budgets[1]), tmp_path / "whole") == 0
    steps = stage_timeline(constant(recipe, budgets[1]).stages[0]).total_steps
    assert digest(tmp_path / "grown", step=steps) == digest(tmp_path / "whole", step=steps)
    with pytest.raises(UserError, match="begun with another recipe"):
        run(constant(recipe, budgets[0]), tmp_path / "grown")


@pytest.mark.parametrize(
    "change",
    ["optimizer.schedule=cosine", "optimizer.schedule.warmup=10 %", "pruning.sparsity=0.5", "reweighting={}"],
)
def test_steps_that_depend_on_the_budget_are_known(recipe: Recipe, change: str) -> None:
    assert ignores_budget(constant(recipe).stages[0])
    in_steps = apply_overrides(constant(recipe), ["stages.base.optimizer.schedule.warmup=3 steps"])
    assert ignores_budget(in_steps.stages[0])
    field, _, value = change.partition("=")
    if field.startswith("pruning"):
        change = f'pruning={{"sparsity": {value}}}'
    assert not ignores_budget(apply_overrides(constant(recipe), [f"stages.base.{change}"]).stages[0])


# ---- branches ----


def test_a_branch_at_a_constant_rate_is_the_rest_of_the_run(recipe: Recipe, tmp_path: Path) -> None:
    whole = constant(recipe.model_copy(update={"seed": 3}))
    whole = apply_overrides(whole, ["stages.base.model.dropout=0"])
    assert run(whole, tmp_path / "whole") == 0
    branch = branched(RunDirectory(tmp_path / "whole"), 8, None, None)
    assert isinstance(branch.stages[0].start, Restore)
    assert branch.stages[0].budget.n == 4
    assert branch.name == "tiny_8"
    assert run(branch, tmp_path / "branch") == 0
    for a, b in zip(params(tmp_path / "whole"), params(tmp_path / "branch"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "base: data continues at sequence " in describe(branch)


@pytest.mark.parametrize(
    ("option", "left"),
    [
        (
            'stages.base.data.seq_len_warmup={"steps": [[0, 8], [3, 16], [9, 32]]}',
            {"seq_len_warmup": [(0, 16), (1, 32)]},
        ),
        ('stages.base.reweighting={"rule": {"kind": "lin_upper"}, "burn_in": "9 steps"}', {"burn_in": 1}),
    ],
)
def test_a_branch_goes_on_within_a_warm_up_or_burn_in(option, left, recipe: Recipe, tmp_path: Path) -> None:
    whole = apply_overrides(constant(recipe), ["stages.base.model.dropout=0", option])
    assert run(whole, tmp_path / "whole") == 0
    branch = branched(RunDirectory(tmp_path / "whole"), 8, None, None)
    (stage,) = branch.stages
    warmup, rule = stage.data.seq_len_warmup, stage.reweighting
    found = {"seq_len_warmup": list(warmup.steps)} if warmup else {"burn_in": rule.burn_in.n}
    assert found == left
    assert run(branch, tmp_path / "branch") == 0
    for a, b in zip(params(tmp_path / "whole"), params(tmp_path / "branch"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_branch_holds_the_temperature_of_its_step(recipe: Recipe, tmp_path: Path) -> None:
    rule = '{"rule": {"kind": "lin_upper", "temperature": 1, "final_temperature": 0.5}, "burn_in": "0 steps"}'
    assert run(apply_overrides(constant(recipe), [f"stages.base.reweighting={rule}"]), tmp_path / "whole") == 0
    (stage,) = branched(RunDirectory(tmp_path / "whole"), 8, None, None).stages
    assert stage.reweighting.rule.final_temperature is None
    assert stage.reweighting.rule.temperature == pytest.approx(1 - 0.5 * 8 / 12)


def test_an_extension_says_which_stage_to_change(uninterrupted: Path) -> None:
    with pytest.raises(UserError, match=r"change that one: stages\.base_more\.optimizer\.learning_rate=1e-3$"):
        extended(RunDirectory(uninterrupted), "2 steps", ["stages.base.optimizer.learning_rate=1e-3"])


def test_a_branch_has_another_rate_and_says_which_steps_there_are(uninterrupted: Path) -> None:
    source = RunDirectory(uninterrupted)
    branch = branched(source, 8, "base", "5 steps", ["stages.base.optimizer.learning_rate=1e-5"])
    assert (branch.stages[0].optimizer.learning_rate, branch.stages[0].budget.n) == (1e-5, 5)
    with pytest.raises(UserError, match=r"has no checkpoint of step 7: base has .*8.*12"):
        branched(source, 7, None, None)
    with pytest.raises(UserError, match="nothing of stage 'base' is left after step 12; say how long"):
        branched(source, 12, None, None)
    with pytest.raises(UserError, match="there is no stage 'bse'"):
        branched(source, 8, "bse", None)


def test_a_branch_finds_the_stage_that_has_its_step(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    longer = extended(RunDirectory(path), "2 steps")
    write_recipe(longer, path / "recipe.json")
    shutil.copytree(path / "base" / "checkpoints" / "step_00000004", path / "base_more/checkpoints/step_00000002")
    assert branched(RunDirectory(path), 8, None, None).stages[0].name == "base"
    with pytest.raises(UserError, match="no checkpoint of step 7: base has 4, 8, 12; base_more has 2 "):
        branched(RunDirectory(path), 7, None, None)
    shutil.copytree(path / "base" / "checkpoints" / "step_00000004", path / "base_more/checkpoints/step_00000004")
    with pytest.raises(UserError, match=r"stages base and base_more of .* of step 4; say which: --stage base"):
        branched(RunDirectory(path), 4, None, None)
    result = CliRunner().invoke(app, ["train", str(path), "--branch", "8", "--out", str(path), "--dry-run"])
    assert "name a new directory" in str(result.exception)


# ---- the page ----


@pytest.mark.slow
def test_every_command_of_the_page_works(
    recipe_file: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the tiny recipe, as `mine.py`, and on one with a constant rate."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(corpus, "corpora/moved")
    mine = recipe_file.read_text().replace('name="tiny"', 'name="mine"')
    Path("mine.py").write_text(mine)
    Path("constant.py").write_text(mine.replace("3e-3", "3e-3, schedule=Constant()"))
    page = Path(__file__).parents[3] / "docs" / "going_on.md"
    commands = re.findall(r"^pathways-lite (.*)$", page.read_text(), re.MULTILINE)
    assert len(commands) >= 12
    for command in ("train mine.py", *commands):
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
    stages = {path: [stage.name for stage in RunDirectory(Path(path)).recipe().stages] for path in ("runs/mine",)}
    assert stages == {"runs/mine": ["base", "base_more", "base_more_2"]}
    assert json.loads(Path("runs/stopped/base/summary.json").read_text())["step"] < 12
    assert CheckpointManager(Path("runs/constant/base/checkpoints")).newest == 30


def test_the_recipe_of_the_page_is_valid(recipe: Recipe) -> None:
    page = (Path(__file__).parents[3] / "docs" / "going_on.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    stage = recipe.stages[0]
    scope: dict[str, Any] = {"model": stage.model, "data": stage.data}
    exec(f"from pathways_lite.recipe import *\n{code}", scope)
    resolved = resolve_recipe(recipe.model_copy(update={"stages": (scope["base"], scope["decay"])}))
    base, decay = resolved.stages
    assert decay.optimizer.learning_rate == pytest.approx(base.optimizer.learning_rate)
    assert decay.budget.n == pytest.approx(0.1 * base.budget.n, abs=1)
