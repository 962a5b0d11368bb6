"""Recipes come from Python files; a resolved recipe is JSON, which loads back equal without running code."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from pathways_lite.errors import UserError
from pathways_lite.recipe.base import Frozen
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
    is_json = path.suffix == ".json" and path.is_file()
    recipe = read_recipe(path) if is_json else call_in(path, Recipe, "configs/demo.py")
    return apply_overrides(recipe, overrides)


def call_in[T: Frozen](path: Path, kind: type[T], example: str) -> T:
    """What the function of a Python file that is named as `kind` in lower case gives: `recipe() -> Recipe`.

    Raises UserError where the file is missing, has no such function, or describes something invalid.
    """
    name = kind.__name__.lower()
    if not path.is_file():
        raise UserError(f"no {name} at {path}; give a Python file with a function {name}(), e.g. {example}")
    try:
        make = runpy.run_path(str(path)).get(name)
        if not callable(make):
            raise UserError(f"{path} has no function {name}(); a {name} file defines `def {name}() -> {kind.__name__}`")
        made = make()
    except ValidationError as error:
        raise UserError(f"{path}: the {name} is invalid.\n{explain(error)}") from error
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}") from error
    if not isinstance(made, kind):
        raise UserError(f"{path}: {name}() returned {type(made).__name__}, not a {kind.__name__}")
    return made


def write_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write the recipe with every default spelt out, as JSON; a reader sees the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_recipe(path: str | Path) -> Recipe:
    """Read what `write_recipe` wrote. Raises UserError for a file that is no recipe."""
    try:
        return Recipe.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path} is no recipe of this version.\n{explain(error)}") from error
