"""The argument `path=value ...` of commands that take a recipe, with completion in shells."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pathways_lite.errors import UserError


def complete_override(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the overrides that begin with `incomplete`: paths of the recipe's fields, and after `=` its variants."""
    from pathways_lite.recipe import load_recipe
    from pathways_lite.recipe.fields import describe_path, override_values

    path, equals, value = incomplete.partition("=")
    try:
        if equals:
            kinds: list[Any] = [cls.kind for cls in describe_path(path)]
            return [f"{path}={kind}" for kind in kinds if kind is not None and kind.startswith(value)]
        paths = override_values(load_recipe(str(ctx.params.get("recipe") or "")))
    except UserError:
        return []
    return [f"{name}=" for name in paths if name.startswith(path)]


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="path=value, e.g. stages.base.optimizer.learning_rate=3e-4; see recipe fields",
        autocompletion=complete_override,
    ),
]
