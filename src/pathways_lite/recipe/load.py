"""Recipes come from Python files; a resolved recipe is JSON, which loads back equal without running code."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from pathways_lite.errors import UserError
from pathways_lite.recipe.overrides import apply_overrides
from pathways_lite.recipe.stage import Recipe


def explain(error: ValidationError, prefix: str = "") -> str:
    """A validation error as sentences: `path: what is wrong`, one line each."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join([*([prefix] if prefix else []), *(str(part) for part in item["loc"])])
        found = item.get("input")
        # A missing field's "input" is the whole object around it, which tells nobody anything.
        shown = "" if item["type"] == "missing" or isinstance(found, BaseModel | dict) else f" (found {found!r})"
        message = item["msg"].removeprefix("Value error, ")
        lines.append(f"{path}: {message}{shown}" if path else message)
    return "\n".join(lines)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that `recipe()` in the Python file (or a resolved `.json`) at `path` gives, after `overrides`.

    Raises UserError where the file is missing, has no `recipe()`, or describes something invalid.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no recipe at {path}; give a Python file with a function recipe(), e.g. configs/demo.py")
    if path.suffix == ".json":
        return apply_overrides(read_recipe(path), overrides)
    try:
        make = runpy.run_path(str(path)).get("recipe")
        if not callable(make):
            raise UserError(f"{path} has no function recipe(); a recipe file defines `def recipe() -> Recipe`")
        recipe = make()
    except ValidationError as error:
        raise UserError(f"{path}: the recipe is invalid.\n{explain(error)}") from error
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}") from error
    if not isinstance(recipe, Recipe):
        raise UserError(f"{path}: recipe() returned {type(recipe).__name__}, not a Recipe")
    return apply_overrides(recipe, overrides)


def write_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write the recipe with every default spelt out, as JSON."""
    Path(path).write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_recipe(path: str | Path) -> Recipe:
    """Read what `write_recipe` wrote. Raises UserError for a file that is no recipe."""
    try:
        return Recipe.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path} is no recipe of this version.\n{explain(error)}") from error
