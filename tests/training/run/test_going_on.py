"""Going on from a run: trained longer, branched off a step, on other machines and corpus places, stopped early."""

import contextlib
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

from helpers.run_helpers import DieAfter, Died, RecordSamples, StopAfter, describe, digest, log_bytes, run
from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.recipe import (
    AdamW,
    Constant,
    Continue,
    EarlyStopping,
    Recipe,
    Restore,
    apply_overrides,
    stage_identity,
    write_recipe,
)
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.begun import stage_states
from pathways_lite.training.estimate import estimate_recipe, held_out_tokens
from pathways_lite.training.going_on import branched, extended
from pathways_lite.training.larger_budget import ignores_budget
from pathways_lite.training.load import load_model
from pathways_lite.training.optimizers import learning_rate_fn
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.resolve_amounts import resolve_budgets
from pathways_lite.training.stage import StageSpec, stage_timeline


def constant(recipe: Recipe, budget: str = "12 steps", **optimizer: Any) -> Recipe:
    """The tiny recipe with a constant rate, so that a longer stage is what two shorter ones are."""
    stage = recipe.stages[0].model_copy(
        update={"optimizer": AdamW(learning_rate=1e-2, schedule=Constant(), **optimizer), "budget": budget}
    )
    return recipe.model_copy(update={"stages": (stage,)})


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


# ---- a rate that is the parent's ----


def test_a_relative_rate_is_the_parents_last(recipe: Recipe) -> None:
    base = (
        constant(recipe)
        .stages[0]
        .model_copy(update={"optimizer": AdamW(learning_rate=1e-2, schedule={"kind": "cosine", "end": 0.1})})
    )
    tail = AdamW(relative_learning_rate=0.5, schedule={"kind": "linear"})
    more = base.model_copy(update={"name": "more", "start": Continue(), "optimizer": tail})
    chain = recipe.model_copy(update={"stages": (base, more)})
    resolved = resolve_recipe(chain)
    assert resolved.stages[1].optimizer.learning_rate == pytest.approx(0.5 * 1e-3)
    assert resolve_recipe(resolved) == resolved
    clash = apply_overrides(chain, ["stages.more.optimizer.learning_rate=3e-4"])
    with pytest.raises(UserError, match=r"makes learning_rate 0.0005, but it is given as 0.0003; leave one"):
        resolve_recipe(clash)
    for change, message in (
        ("stages.more.start=scratch", "nothing that it starts from has a learning rate"),
        ("stages.base.optimizer=muon", "with muon, whose rates are others"),
        ("stages.base.optimizer.schedule=linear", "left at a learning rate of 0"),
        ('stages.base.early_stopping={"patience": 1}', "may stop early, so its last rate is not known"),
    ):
        with pytest.raises(UserError, match=message):
            resolve_recipe(apply_overrides(chain, [change]))


# ---- budgets ----


def test_budgets_in_epochs_and_of_other_stages(recipe: Recipe) -> None:
    base = recipe.stages[0].model_copy(update={"batch_size": 4})
    tail = base.model_copy(update={"name": "tail", "start": Continue(), "budget": "25 % of base"})
    chain = recipe.model_copy(update={"stages": (base, tail)})
    assert resolve_budgets(chain).stages[1].budget.n == 3
    one = resolve_recipe(apply_overrides(chain, ["stages.base.budget=1 epochs"]))
    assert list(StageSpec(one, 0).epochs.values()) == [pytest.approx(1.0, abs=0.01)] * 2
    assert one.stages[1].budget.n == -(-one.stages[0].budget.n // 4)
    rounds = resolve_recipe(
        apply_overrides(chain, ["stages.base.budget=2 epochs", "stages.base.data.rs2_fraction=0.5"])
    )
    assert rounds.stages[0].budget.n == pytest.approx(one.stages[0].budget.n, abs=64)
    for text, message in (
        ("10 % of nothing", "is of a stage that is not there; name another stage"),
        ("10 % of tail", "depends on itself"),
    ):
        with pytest.raises(UserError, match=message):
            resolve_budgets(apply_overrides(chain, [f"stages.base.budget={text}"]))
    last = tail.model_copy(update={"name": "last", "budget": "4 steps"})
    three = chain.model_copy(update={"stages": (*chain.stages, last)})
    with pytest.raises(UserError, match=r"depends on itself \(base of tail of base\); name another stage \(last\), or"):
        resolve_budgets(apply_overrides(three, ["stages.base.budget=10 % of tail"]))
    with pytest.raises(UserError, match=r"base\.budget=2 epochs counts its sequences; .*or give the budget in tokens"):
        resolve_budgets(apply_overrides(chain, ["stages.base.budget=2 epochs", "stages.base.data.corpus=nowhere"]))


# ---- other places, for all stages ----


def test_all_stages_are_named_by_a_star(recipe: Recipe) -> None:
    base = recipe.stages[0]
    chain = recipe.model_copy(update={"stages": (base, base.model_copy(update={"name": "more", "start": Continue()}))})
    moved = apply_overrides(chain, ["stages.*.data.corpus=elsewhere", "stages.m*.batch_size=2"])
    assert [stage.data.corpus for stage in moved.stages] == ["elsewhere", "elsewhere"]
    assert [stage.batch_size for stage in moved.stages] == [base.batch_size, 2]
    with pytest.raises(UserError, match=r"stages\.\*\.microbatch=7 does not divide"):
        apply_overrides(chain, ["stages.*.microbatch=7"])
    with pytest.raises(UserError, match="there is no 'x\\*'"):
        apply_overrides(chain, ["stages.x*.batch_size=2"])


# ---- early stopping ----


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
