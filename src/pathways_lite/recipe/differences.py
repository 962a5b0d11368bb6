"""Where recipes differ, value by value, in the words of overrides."""

from __future__ import annotations

from collections.abc import Sequence

from pathways_lite.recipe.fields import override_values
from pathways_lite.recipe.stage import Recipe

__all__ = ["recipe_differences"]


def recipe_differences(recipes: Sequence[Recipe]) -> dict[str, list[str | None]]:
    """Return the values of all recipes by path where they are not the same; None where one has no such field."""
    values = [override_values(recipe) for recipe in recipes]
    paths = dict.fromkeys(path for of_recipe in values for path in of_recipe)
    rows = {path: [of_recipe.get(path) for of_recipe in values] for path in paths}
    return {path: row for path, row in rows.items() if any(value != row[0] for value in row)}
