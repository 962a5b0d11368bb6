"""Every shipped recipe loads, is small, says its command, and survives JSON."""

import ast
from pathlib import Path

import pytest

from pathways_lite.models.accounting import parameter_count
from pathways_lite.recipe import Recipe, load_recipe
from pathways_lite.studies import load_study

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.py"))
ABLATIONS = sorted((ROOT / "configs" / "ablations").glob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_recipes(path: Path) -> None:
    recipe = load_recipe(path)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.name == path.stem
    text = path.read_text()
    assert len(text.splitlines()) < 100
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"pathways-lite train configs/{path.name}" in docstring


@pytest.mark.parametrize("path", [*STUDIES, *ABLATIONS], ids=lambda path: path.stem)
def test_shipped_studies(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem
    text = path.read_text()
    assert len(text.splitlines()) < 100
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"pathways-lite study run {path.relative_to(ROOT)}" in docstring


def test_the_example_compares_equal_models_at_equal_compute() -> None:
    study = load_study(STUDIES[0])
    a, b = (recipes[0].stages[0] for recipes in study.arms.values())
    assert parameter_count(a.model) == pytest.approx(parameter_count(b.model), rel=0.01)
    assert a.budget == b.budget


def test_there_are_recipes() -> None:
    assert {path.stem for path in CONFIGS} >= {"demo", "novels", "palm_8b", "palm_62b", "palm_540b", "llama3_8b"}
