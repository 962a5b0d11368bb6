"""Recipes come from Python files; a resolved recipe is JSON, which loads back equal without running code."""

from __future__ import annotations

import difflib
import json
import runpy
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.errors import UserError
from pathways_lite.recipe.base import Frozen
from pathways_lite.recipe.stage import Recipe

# Typed overrides by path: `stages.base.optimizer.learning_rate=3e-4`.
#
# A stage is addressed by its name or its number. Values are JSON where they parse as JSON and text otherwise;
# `none` and `null` are None. Naming a kind (`stages.base.optimizer=muon`) replaces the whole subtree by that
# kind's own defaults.


def apply_overrides[T: Frozen](root: T, overrides: Sequence[str]) -> T:
    """`root` with each `path=value` applied in turn. Raises UserError that names the path and what would do."""
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise UserError(f"{override!r} is no override; write path=value, e.g. stages.base.batch_size=32")
        root = _set(root, path.strip().split("."), text.strip(), done=())
    return root


def _set(node: Any, path: list[str], text: str, done: tuple[str, ...]) -> Any:
    name, rest = path[0], path[1:]
    here = (*done, name)
    if isinstance(node, tuple):
        index = _find(node, name, here)
        if not rest:
            raise UserError(f"{'.'.join(here)} is a whole {type(node[index]).__name__}; name a field of it")
        return tuple(_set(item, rest, text, here) if i == index else item for i, item in enumerate(node))
    if not isinstance(node, Frozen):
        raise UserError(f"{'.'.join(done)} is {node!r} and has no field {name!r}")
    fields = type(node).model_fields
    if name not in fields:
        raise UserError(f"{'.'.join(done) or type(node).__name__} has no field {name!r}.{_did_you_mean(name, fields)}")
    current = getattr(node, name)
    value = _set(current, rest, text, here) if rest else _value(type(node), name, text, here)
    try:
        # Validated as a whole, so that rules between fields hold after each override.
        return type(node).model_validate({**dict(node), name: value})
    except ValidationError as error:
        raise UserError(f"{'.'.join(here)}={text}: {_messages(error)}") from error


def _find(items: tuple[Any, ...], name: str, here: tuple[str, ...]) -> int:
    names = [getattr(item, "name", str(i)) for i, item in enumerate(items)]
    if name in names:
        return names.index(name)
    if name.isdigit() and int(name) < len(items):
        return int(name)
    raise UserError(f"{'.'.join(here)}: there is no {name!r}.{_did_you_mean(name, names)}")


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} It has: {', '.join(known)}"


def _messages(error: ValidationError) -> str:
    return "; ".join(dict.fromkeys(e["msg"].removeprefix("Value error, ") for e in error.errors(include_url=False)))


def _value(owner: type[Frozen], name: str, text: str, here: tuple[str, ...]) -> Any:
    """`text` as a value of the field's type."""
    field = owner.model_fields[name]
    # Metadata (discriminator, bounds, parsers) is kept apart from the annotation by pydantic.
    annotation: Any = Annotated[field.annotation, field, *field.metadata] if field.metadata else field.annotation
    kinds = _kinds(field.annotation)
    if text in kinds:
        try:
            return kinds[text]()
        except ValidationError as error:
            missing = ", ".join(str(e["loc"][0]) for e in error.errors())
            raise UserError(f"{'.'.join(here)}={text}: {text} has no default for {missing}; give it as JSON") from error
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    refusals = []
    for candidate in _candidates(text):
        try:
            return adapter.validate_python(candidate)
        except ValidationError as error:
            refusals.append(error)
    hint = f" ({_messages(refusals[0])})"
    if kinds and text.isidentifier():
        hint = _did_you_mean(text, kinds)
    raise UserError(f"{'.'.join(here)}={text}: not a valid value.{hint}") from refusals[0]


def _candidates(text: str) -> list[Any]:
    """Readings of `text`, the likeliest first: JSON (so `1e3` is a number), then plain text."""
    if text.lower() in ("none", "null"):
        return [None]
    if text.lower() in ("true", "false"):
        return [text.lower() == "true"]
    try:
        return [json.loads(text), text]
    except json.JSONDecodeError:
        return [text]


def _kinds(annotation: Any) -> dict[str, type[Frozen]]:
    """The named variants of a polymorphic field: `{"adamw": AdamW, ...}`."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return {k: v for member in typing.get_args(annotation) for k, v in _kinds(member).items()}
    if isinstance(annotation, type) and issubclass(annotation, Frozen) and "kind" in annotation.model_fields:
        return {annotation.model_fields["kind"].default: annotation}
    return {}


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
    write_text_atomically(Path(path), recipe.model_dump_json(indent=2) + "\n")


def read_recipe(path: str | Path) -> Recipe:
    """Read what `write_recipe` wrote. Raises UserError for a file that is no recipe."""
    try:
        return Recipe.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path} is no recipe of this version.\n{explain(error)}") from error
