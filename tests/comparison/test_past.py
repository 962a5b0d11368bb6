"""The curve of a branch includes what led to it in the run that it left."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.invoke import invoke
from helpers.run_helpers import compile_once, constant, run, stub_slow_parts
from pathways_lite.comparison.curves import read_curve
from pathways_lite.comparison.metric import Metric
from pathways_lite.comparison.past import read_past
from pathways_lite.recipe import apply_overrides, load_recipe
from pathways_lite.run_directory import RunDirectory
from pathways_lite.tracking.run_data import read_run
from pathways_lite.training.going_on import branched


@pytest.fixture(scope="module")
def trunk_and_branches(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at a constant rate, a branch from its step 8 that is its rest, one at another rate, one from a branch."""
    root = tmp_path_factory.mktemp("branches")
    with pytest.MonkeyPatch.context() as patch:
        compile_once(patch)
        stub_slow_parts(patch)
        recipe = apply_overrides(
            constant(load_recipe(recipe_file)), ["stages.base.evaluation.every=2", "stages.base.model.dropout=0"]
        )
        assert run(recipe, root / "trunk") == 0
        trunk = RunDirectory(root / "trunk")
        assert run(branched(trunk, 8, None, None), root / "rest") == 0
        assert run(branched(trunk, 8, None, None, ["stages.base.optimizer.learning_rate=1e-3"]), root / "lower") == 0
        assert run(branched(RunDirectory(root / "rest"), 4, None, "2 steps"), root / "twice") == 0
    return root


@pytest.mark.parametrize("of", ["held-out", "train"])
def test_a_branch_at_a_constant_rate_has_the_curve_of_the_run(trunk_and_branches: Path, of: str) -> None:
    metric = Metric.model_validate({"of": of})
    whole = read_curve(read_run(trunk_and_branches / "trunk"), metric)
    rest = read_run(trunk_and_branches / "rest")
    past = read_past(rest, metric)
    branch = read_curve(rest, metric, past=past.stages)
    for name in ("flops", "tokens", "loss"):
        np.testing.assert_allclose(getattr(branch, name), getattr(whole, name), rtol=1e-6, err_msg=name)
    assert len(read_curve(rest, metric).flops) < len(branch.flops)
    assert (np.diff(branch.seconds) >= 0).all()
    step, place = 8, trunk_and_branches / "trunk" / "base"
    assert past.sentence.endswith(f"continues from step {step} of {place}: its curve includes what led to it.")


def test_a_branch_of_a_branch_has_both_pasts(trunk_and_branches: Path) -> None:
    past = read_past(read_run(trunk_and_branches / "twice"), Metric())
    assert [stage.rows[-1]["step"] for stage in past.stages] == [8, 4]
    assert past.sentence.count("its curve includes") == 2


def test_runs_compare_says_it_and_leaves_out_a_table_without_a_time(trunk_and_branches: Path) -> None:
    rest, lower = trunk_and_branches / "rest", trunk_and_branches / "lower"
    said = invoke("runs", "compare", rest, lower).output
    assert said.count("its curve includes what led to it") == 2
    assert "stages.base.optimizer.learning_rate" in said
    assert " 0.01 " in said
    assert "unknown" not in said
    names = json.loads(invoke("runs", "compare", rest, lower, "--json").stdout)["notes"]
    assert sum("its curve includes" in note for note in names) == 2


def test_a_parent_that_is_gone_or_another_one_is_told(trunk_and_branches: Path, tmp_path: Path) -> None:
    for name in ("trunk", "rest"):
        shutil.copytree(trunk_and_branches / name, tmp_path / name)
    recipe = json.loads((tmp_path / "rest" / "recipe.json").read_text())
    start = recipe["stages"][0]["start"]

    def past_from(path: Path | str) -> str:
        start["path"] = str(path)
        (tmp_path / "rest" / "recipe.json").write_text(json.dumps(recipe))
        past = read_past(read_run(tmp_path / "rest"), Metric())
        assert not past.stages
        return past.sentence

    assert "is not there, or is another one now" in past_from(tmp_path / "nowhere" / "base")
    assert "is not there, or is another one now" in past_from(
        tmp_path / "trunk" / "base" / "checkpoints" / "step_00000012"
    )
    parent = json.loads((tmp_path / "trunk" / "recipe.json").read_text())
    parent["stages"][0]["evaluation"]["tokens"] = 7
    (tmp_path / "trunk" / "recipe.json").write_text(json.dumps(parent))
    assert "evaluated on other held-out text" in past_from(tmp_path / "trunk")
