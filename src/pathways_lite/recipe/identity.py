"""A stage's identity: the hash of what determines its result, its ancestors included."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pathways_lite.recipe.base import Frozen
from pathways_lite.recipe.stage import Recipe

# Raise it when the same recipe begins to compute something else.
FORMAT = 1


def identity_fields(part: Any) -> Any:
    """`part` as plain JSON types, without the fields that cannot change a result.

    A field that is None is left out as well: a method that a recipe does not use, perhaps because it did not exist when
    the recipe was run, is no part of what was computed.
    """
    if isinstance(part, Frozen):
        names = type(part).model_fields.keys() - part.not_identity
        fields = {name: getattr(part, name) for name in sorted(names)}
        return {name: identity_fields(value) for name, value in fields.items() if value is not None}
    if isinstance(part, tuple | list):
        return [identity_fields(item) for item in part]
    return part


def stage_identity(recipe: Recipe, index: int) -> str:
    """Hexadecimal SHA-256 (first 16 digits) of stage `index` with all stages before it and the seed.

    Two recipes that share their first stages share those stages' identities, and so their checkpoints.
    """
    parent = stage_identity(recipe, index - 1) if index else None
    content = {"format": FORMAT, "seed": recipe.seed, "parent": parent, "stage": identity_fields(recipe.stages[index])}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def identity_differences(old: Recipe, new: Recipe, index: int) -> list[str]:
    """What makes stage `index` of two recipes different, its ancestors included, a line per field."""
    pairs: list[tuple[str, Any, Any]] = [("seed", old.seed, new.seed)]
    for i in range(index + 1):
        a, b = (_flat(identity_fields(recipe.stages[i])) for recipe in (old, new))
        path = f"stages.{new.stages[i].name}"
        pairs += [(f"{path}.{name}", a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys())]
    return [f"{path}: {before!r} there, {after!r} now" for path, before, after in pairs if before != after]


def _flat(fields: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries by dotted path."""
    if not isinstance(fields, dict):
        return {prefix: fields}
    return {
        path: leaf
        for name, value in fields.items()
        for path, leaf in _flat(value, f"{prefix}.{name}" if prefix else name).items()
    }
