"""Every shipped recipe loads, is small, says its command, and survives JSON."""

import ast
from pathlib import Path

import pytest

from pathways_lite.recipe import Recipe, load_recipe

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_recipes(path: Path) -> None:
    recipe = load_recipe(path)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.name == path.stem
    text = path.read_text()
    assert len(text.splitlines()) < 100
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"pathways-lite train configs/{path.name}" in docstring


def test_there_are_recipes() -> None:
    assert {path.stem for path in CONFIGS} >= {"demo", "novels", "palm_8b", "palm_62b", "palm_540b", "llama3_8b"}
