"""`pathways-lite recipe`: reference, values and differences."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from pathways_lite.cli.main import app
from pathways_lite.cli.overrides import complete_override
from pathways_lite.cli.recipe import reference
from pathways_lite.recipe import Continue, Steps, load_recipe, recipe_differences, write_recipe
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.resolve import resolve_recipe

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "configs/demo.py")


def invoke(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["recipe", *words])
    return result.exit_code, result.stdout


def test_the_page_of_reference_is_current() -> None:
    assert (ROOT / "docs/recipe.md").read_text() == reference(), (
        "pathways-lite recipe fields --markdown > docs/recipe.md"
    )


def test_fields_of_variants() -> None:
    status, output = invoke("fields", "stages.optimizer")
    assert status == 0
    assert all(name in output for name in ("AdamW (adamw)", "Muon (muon)", "learning_rate", "cosine", "number, > 0"))
    status, output = invoke("fields", "stages.optimizer", "--json")
    assert [cls["kind"] for cls in json.loads(output)][:2] == ["adamw", "adafactor"]


def test_show_prints_overrides_and_takes_some() -> None:
    status, output = invoke("show", DEMO, "stages.base.optimizer=muon")
    lines = output.splitlines()
    assert status == 0
    assert "stages.base.optimizer=muon" in lines
    assert "stages.base.budget=256 steps" in lines
    assert len(invoke("show", DEMO, "--changed")[1].splitlines()) < len(lines) / 2
    assert json.loads(invoke("show", DEMO, "--json")[1])["stages"][0]["name"] == "base"


def test_diff_names_fields_and_stages_that_compute_the_same(tmp_path: Path) -> None:
    assert invoke("diff", DEMO, DEMO) == (0, "the recipes are equal\n")
    variant = tmp_path / "variant.py"
    variant.write_text(
        "from pathways_lite.recipe import apply_overrides, load_recipe\n"
        f"def recipe():\n    return apply_overrides(load_recipe({DEMO!r}), ['stages.base.saving.every=7'])\n"
    )
    status, output = invoke("diff", DEMO, str(variant))
    assert status == 1
    assert "stages.base.saving.every" in output
    assert "which compute the same: base" in output
    variant.write_text(variant.read_text().replace("saving.every=7", "model.d_model=64"))
    status, output = invoke("diff", DEMO, str(variant), "--json")
    assert json.loads(output) == {
        "differences": [{"path": "stages.base.model.d_model", "a": "192", "b": "64"}],
        "stages_with_the_same_identity": [],
    }


def test_the_recipe_of_a_run_does_not_differ_from_what_the_run_recorded(recipe_file: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    resolved = resolve_recipe(load_recipe(recipe_file))
    write_recipe(resolved, run.recipe_path)
    assert invoke("diff", str(recipe_file), str(run.path)) == (0, "the recipes are equal\n")
    changed = tmp_path / "changed.py"
    changed.write_text(recipe_file.read_text().replace("learning_rate=3e-3", "learning_rate=1e-3"))
    status, output = invoke("diff", str(run.path), str(changed))
    assert status == 1
    assert "fingerprint" not in output
    assert "stages.base.optimizer.learning_rate" in output
    changed.write_text(recipe_file.read_text().replace("corpus=", "corpus='/missing' or "))
    result = CliRunner().invoke(app, ["recipe", "diff", str(run.path), str(changed)])
    assert "is compared as it is written" in result.stderr


@pytest.mark.parametrize(
    ("incomplete", "expected"),
    [
        ("stages.base.optimizer.le", ["stages.base.optimizer.learning_rate="]),
        ("stages.base.optimizer=mu", ["stages.base.optimizer=muon"]),
        ("stages.base.nothing", []),
        ("stages.base.nothing.at.all=x", []),
    ],
)
def test_overrides_are_completed(incomplete: str, expected: list[str]) -> None:
    context = SimpleNamespace(params={"recipe": DEMO})
    assert complete_override(context, incomplete) == expected  # type: ignore[arg-type]


def test_nothing_is_completed_without_a_recipe() -> None:
    assert complete_override(SimpleNamespace(params={"recipe": "missing.py"}), "stages") == []  # type: ignore[arg-type]


def test_a_shell_completes_an_override() -> None:
    line = f"pathways-lite train {DEMO} stages.base.model.d_"
    shell = {"_PATHWAYS_LITE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "3"}
    command = Path(sys.executable).with_name("pathways-lite")
    done = subprocess.run([command], env=os.environ | shell, capture_output=True, text=True)
    assert "stages.base.model.d_model=" in done.stdout


def test_a_stage_that_one_recipe_lacks_is_one_difference() -> None:
    recipe = load_recipe(DEMO)
    more = recipe.stages[0].model_copy(update={"name": "more", "start": Continue(), "budget": Steps(n=3)})
    longer = recipe.model_copy(update={"stages": (*recipe.stages, more)})
    assert recipe_differences([recipe, longer]) == {"stages.more": [None, "continue, 3 steps"]}
