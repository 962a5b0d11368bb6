"""Which stage of a run has taken a step, and what a branch has read with its ancestors."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from helpers.invoke import invoke
from helpers.run_helpers import InjectNaN, StopAfter, constant, describe, run
from pathways_lite.data.reading import find_document, reads_of
from pathways_lite.errors import UserError
from pathways_lite.recipe import Recipe, apply_overrides
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.going_on import branched, extended
from pathways_lite.training.read_history import last_spike, load_history, readings_with_step
from pathways_lite.training.replay import data_stream
from pathways_lite.training.run import train_run


@pytest.fixture
def longer(uninterrupted: Path, tmp_path: Path) -> Path:
    """A run of 12 steps that was extended by 3."""
    path = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    assert run(extended(RunDirectory(path), "3 steps"), path) == 0
    return path


def test_a_step_is_looked_up_over_the_run(longer: Path) -> None:
    def stages(step: int) -> list[str]:
        return [reading.stage.name for reading in readings_with_step(longer, step)]

    assert stages(8) == ["base"]
    assert stages(1) == ["base_more", "base"]
    with pytest.raises(UserError, match=r"no stage of .* has a step 40: stage 'base' has 0 to 11, 'base_more' has 0 t"):
        stages(40)
    assert "stage base, step 8, " in invoke("data", "batch", longer, "--step", "8", "--rows", "1").output
    both = invoke("data", "batch", longer, "--step", "1", "--rows", "1").output
    assert both.startswith("stage 'base' has a step 1 too: choose it by --stage\nstage base_more, step 1, ")
    assert invoke("data", "batch", longer, "--step", "1", "--stage", "base").output.startswith("stage base, step 1, ")


def test_a_step_that_is_not_taken_yet_is_of_the_stage_that_will(recipe: Recipe, tmp_path: Path) -> None:
    run(recipe, tmp_path, StopAfter(4))
    assert [reading.stage.name for reading in readings_with_step(tmp_path, 9)] == ["base"]


def test_the_spike_is_named_before_the_steps_around_it(longer: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Over all stages: without a spike of the guard it is the largest rise, whatever stage it is in."""
    reading, spike = last_spike(longer)
    assert spike.is_rise
    others = [last_spike(longer / stage)[1].rise for stage in ("base", "base_more")]
    assert spike.rise == max(others)
    first, second, *_ = invoke("data", "batch", longer, "--spike", "--before", "1", "--rows", "1").output.splitlines()
    assert first.startswith(
        f"the guard saw no spike; the largest rise of the loss is at step {spike.step} of stage {reading.stage.name}: "
    )
    assert second.startswith(f"shown are step {spike.step - 1}, and then this one; --before N shows N steps before it")
    run(apply_overrides(recipe, ["stages.base.guard.policy=skip"]), tmp_path / "nan", InjectNaN(5))
    run(extended(RunDirectory(tmp_path / "nan"), "3 steps"), tmp_path / "nan")
    reading, spike = last_spike(tmp_path / "nan")
    assert (reading.stage.name, spike.is_rise) == ("base", False)
    said = invoke("data", "batch", tmp_path / "nan", "--spike", "--rows", "1").output
    assert said.startswith(f"the last spike is step {spike.step} of stage base: its update was not finite")
    assert f"step {spike.step}, the spike, " in said


def test_what_a_branch_has_read_includes_its_parent(recipe: Recipe, tmp_path: Path) -> None:
    """At a constant rate the branch is the rest of the run, and so is what it has read."""
    base, branch = tmp_path / "base", tmp_path / "branch"
    assert run(constant(recipe), base) == 0
    assert run(branched(RunDirectory(base), 8, None, None), branch) == 0
    history = load_history(branch)
    assert [(reading.stage.name, reading.steps) for reading in history.readings] == [("base", 8), ("base", 4)]
    assert history.missing == []

    def reads(path: Path, name: str) -> list[tuple[int, int, int]]:
        found, offset = [], 0
        for reading in load_history(path).readings:
            stream = data_stream(reading)
            part = find_document(stream.store, name)
            found += [(offset + r.step, r.row, r.start) for r in reads_of(stream, reading.steps, part)]
            offset += reading.steps
        return found

    store = data_stream(history.readings[0]).store
    names = [f"{store.domains[0]}#{number}" for number in range(4)]
    assert [reads(branch, name) for name in names] == [reads(base, name) for name in names]
    assert any(reads(branch, name) for name in names)
    said = invoke("data", "who-read", branch, names[0], "--json").stdout
    assert '"missing": []' in said
    shutil.rmtree(base)
    history = load_history(branch)
    assert [reading.steps for reading in history.readings] == [4]
    (sentence,) = history.missing
    assert "is not there any more: what led to it is left out" in sentence
    assert sentence in invoke("data", "who-read", branch, names[0]).output


def test_a_stage_is_listed_once_as_far_as_it_was_taken(longer: Path) -> None:
    names = [(reading.stage.name, reading.steps) for reading in load_history(longer).readings]
    assert names == [("base", 12), ("base_more", 3)]
    assert [r.stage.name for r in load_history(longer / "base_more").readings] == ["base", "base_more"]


def test_a_resumed_start_says_where_data_continues(recipe: Recipe, tmp_path: Path) -> None:
    run(recipe, tmp_path / "run", StopAfter(8))
    (expected,) = [line for line in describe(recipe, RunDirectory(tmp_path / "run")).splitlines() if "sequence" in line]
    said = io.StringIO()
    assert train_run(recipe, tmp_path / "run", console=Console(file=said, width=200)) == 0
    assert expected.startswith("base: data continues at sequence ")
    assert expected in said.getvalue().splitlines()
