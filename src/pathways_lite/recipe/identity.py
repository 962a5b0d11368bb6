"""A stage's identity: a hash of everything that determines its result, ancestors included."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pathways_lite.recipe.base import Frozen
from pathways_lite.recipe.stage import Recipe

__all__ = ["identity_differences", "stage_identity"]

# Increase it when the same recipe starts to compute something else.
FORMAT = 1


def identity_fields(node: Any, *, former_names: bool = True) -> Any:
    """Return `node` as plain JSON types, without the fields that cannot change a result.

    A renamed field has its former name, so a rename keeps the hash; `former_names=False` is for people to read.

    A field that is None is left out too: a method that a recipe does not use, perhaps because it did not exist when
    the recipe was run, does not belong to what was computed.
    """
    if isinstance(node, Frozen):
        names = {
            node.former_names.get(name, name) if former_names else name: name
            for name in type(node).model_fields.keys() - node.not_identity
        }
        values = {key: getattr(node, names[key]) for key in sorted(names)}
        return {
            key: identity_fields(value, former_names=former_names) for key, value in values.items() if value is not None
        }
    if isinstance(node, tuple | list):
        return [identity_fields(item, former_names=former_names) for item in node]
    return node


def _stage_fields(recipe: Recipe, index: int, *, former_names: bool = True) -> dict[str, Any]:
    """Return `identity_fields` of a stage, with its evaluations where these decide when it ends."""
    stage = recipe.stages[index]
    fields: dict[str, Any] = identity_fields(stage, former_names=former_names)
    if stage.early_stopping is not None:
        fields["evaluation"] = identity_fields(stage.evaluation, former_names=former_names)
    return fields


def stage_identity(recipe: Recipe, index: int) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of stage `index`, all stages before it and the seed.

    Two recipes that share their first stages share those stages' identities, and so their checkpoints.
    """
    parent = stage_identity(recipe, index - 1) if index else None
    content = {"format": FORMAT, "seed": recipe.seed, "parent": parent, "stage": _stage_fields(recipe, index)}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def identity_differences(old: Recipe, new: Recipe, index: int) -> list[str]:
    """List what gives stage `index` of two recipes different identities, ancestors included, one line per field."""
    pairs: list[tuple[str, Any, Any]] = [("seed", old.seed, new.seed)]
    for i in range(index + 1):
        before, after = (flatten(_stage_fields(recipe, i, former_names=False)) for recipe in (old, new))
        path = f"stages.{new.stages[i].name}"
        pairs += [
            (f"{path}.{name}", before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys())
        ]
    show = lambda value: "unset" if value is None else repr(value)  # noqa: E731
    return [f"{path}: {show(was)} in the run, {show(now)} in this recipe" for path, was, now in pairs if was != now]


def flatten(fields: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries by dotted path, which begins with `prefix`."""
    if not isinstance(fields, dict):
        return {prefix: fields}
    return {
        path: leaf
        for name, value in fields.items()
        for path, leaf in flatten(value, f"{prefix}.{name}" if prefix else name).items()
    }
