"""Where recipes differ, value by value, in the words of overrides."""

from __future__ import annotations

from collections.abc import Sequence

from pathways_lite.recipe.fields import override_values, value_text
from pathways_lite.recipe.stage import Recipe

__all__ = ["recipe_differences"]


def recipe_differences(recipes: Sequence[Recipe]) -> dict[str, list[str | None]]:
    """Return the values of all recipes by path where they are not the same; None where one has no such field.

    A stage that one of them does not have is one row, `stages.NAME`: its start and its budget.
    """
    values = [_with_short_stages(recipe, _shared_stages(recipes)) for recipe in recipes]
    paths = dict.fromkeys(path for of_recipe in values for path in of_recipe)
    rows = {path: [of_recipe.get(path) for of_recipe in values] for path in paths}
    return {path: row for path, row in rows.items() if any(value != row[0] for value in row)}


def _shared_stages(recipes: Sequence[Recipe]) -> set[str]:
    return set.intersection(*({stage.name for stage in recipe.stages} for recipe in recipes)) if recipes else set()


def _with_short_stages(recipe: Recipe, shared: set[str]) -> dict[str, str]:
    """Return the values of a recipe by path, with one for each stage that is not `shared` by all."""
    own = {stage.name: f"{stage.start.kind}, {value_text(stage.budget)}" for stage in recipe.stages}
    values: dict[str, str] = {}
    for path, text in override_values(recipe).items():
        kind, _, rest = path.partition(".")
        name = rest.partition(".")[0]
        if kind == "stages" and name in own and name not in shared:
            values[f"stages.{name}"] = own[name]
        else:
            values[path] = text
    return values
