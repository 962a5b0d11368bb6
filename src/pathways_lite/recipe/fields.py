"""Describe recipes: the fields of their classes, and the values of one recipe as overrides."""

from __future__ import annotations

import collections
import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from pathways_lite.errors import UserError, closest_names, did_you_mean
from pathways_lite.recipe.base import (
    Epochs,
    Flops,
    Fraction,
    FractionOf,
    Frozen,
    Steps,
    Tokens,
    is_node,
    meant_field,
    union_members,
    variants_of,
)
from pathways_lite.recipe.stage import Recipe

__all__ = ["ClassFields", "FieldRow", "describe_class", "describe_path", "override_values", "recipe_classes"]

_AMOUNTS = (Steps, Tokens, Flops, Fraction, Epochs, FractionOf)
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


# ---- classes ----


@dataclass(frozen=True)
class FieldRow:
    """One field, in words: `default` is as an override would give it, "required" where there is none."""

    name: str
    type: str
    default: str
    description: str


@dataclass(frozen=True)
class ClassFields:
    """A class of recipes with its fields; `kind` is what overrides call it, None where nothing else could be there."""

    name: str
    kind: str | None
    summary: str
    fields: tuple[FieldRow, ...]


def describe_path(path: str) -> list[ClassFields]:
    """Return the classes that may be at `path`, such as `stages.base.optimizer`; of a plain field, its owners alone,
    which come first where a number may be in the place of a class.

    Names and numbers of stages may be left out. The path may also be a class (`AdamW`). Raises UserError for a name
    that is not a field, with the names that are.
    """
    named = _named_classes()
    if path.lower() in named:
        return [describe_class(named[path.lower()])]
    classes: list[type[Frozen]] = [Recipe]
    in_sequence = False
    parts = [part for part in path.split(".") if part]
    for number, part in enumerate(parts):
        owners = [cls for cls in classes if cls.current_name(part) in cls.model_fields]
        if not owners:
            kinds = {variant.model_fields["kind"].default: variant for variant in classes if _has_kind(variant)}
            if part in kinds:
                classes, in_sequence = [kinds[part]], False
                continue
            if not in_sequence or closest_names(part, _field_names(classes)):
                raise UserError(_no_such_field(".".join(parts[:number]), part, classes))
            in_sequence = False  # the name or number of an item
            continue
        annotations = [cls.model_fields[cls.current_name(part)].annotation for cls in owners]
        children = [child for annotation in annotations for child in _classes_in(annotation)]
        if not children or children[0] in _AMOUNTS:
            if number + 1 < len(parts):
                raise UserError(f"{'.'.join(parts[: number + 1])} is a value and has no field {parts[number + 1]!r}")
            return [describe_class(cls, only=cls.current_name(part)) for cls in owners]
        if number + 1 == len(parts) and any(map(_takes_plain_value, annotations)):
            owner = [describe_class(cls, only=cls.current_name(part)) for cls in owners]
            return owner + [describe_class(cls) for cls in dict.fromkeys(children)]
        classes = list(dict.fromkeys(children))
        in_sequence = any(_is_sequence(annotation) for annotation in annotations)
    return [describe_class(cls) for cls in classes]


def recipe_classes() -> list[type[Frozen]]:
    """Return every class that a recipe may contain, outer ones first."""
    classes: dict[type[Frozen], None] = {Recipe: None}
    waiting: collections.deque[type[Frozen]] = collections.deque([Recipe])
    while waiting:
        for field in waiting.popleft().model_fields.values():
            for cls in _classes_in(field.annotation):
                if cls not in classes:
                    classes[cls] = None
                    waiting.append(cls)
    return list(classes)


def describe_class(cls: type[Frozen], only: str | None = None) -> ClassFields:
    """Return a class with its fields, or with the field `only` alone."""
    rows = [
        FieldRow(name, _type_text(field), _default_text(field), field.description or "")
        for name, field in cls.model_fields.items()
        if name != "kind" and only in (None, name)
    ]
    kind = cls.model_fields["kind"].default if "kind" in cls.model_fields else None
    summary = " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())
    return ClassFields(cls.__name__, kind, summary, tuple(rows))


def _field_names(classes: list[type[Frozen]]) -> list[str]:
    return list(dict.fromkeys(field for cls in classes for field in cls.model_fields))


def _has_kind(cls: type[Frozen]) -> bool:
    return "kind" in cls.model_fields


def _named_classes() -> dict[str, type[Frozen]]:
    """Return the classes by their names and, where these are free, kinds, in lower case."""
    kinds = {cls.model_fields["kind"].default: cls for cls in recipe_classes() if _has_kind(cls)}
    return kinds | {cls.__name__.lower(): cls for cls in recipe_classes()}


def _no_such_field(path: str, name: str, classes: list[type[Frozen]]) -> str:
    fields = _field_names(classes)
    if not closest_names(name, fields):
        # A class or a kind is meant rather than a field.
        among = classes if path else list(_named_classes().values())
        variants = [cls for cls in among if _has_kind(cls)]
        named = {text.lower(): cls for cls in variants for text in (cls.__name__, cls.model_fields["kind"].default)}
        if close := closest_names(name, named):
            kinds = [cls.model_fields["kind"].default for cls in _siblings(named[close[0]])]
            return f"there is no {name!r}.{did_you_mean(name, kinds, meant=named[close[0]].__name__)}"
    return f"{path or 'a recipe'} has no field {name!r}.{did_you_mean(name, fields, meant=meant_field(name, fields))}"


def _siblings(cls: type[Frozen]) -> list[type[Frozen]]:
    """Return the classes of the first union that a class is in."""
    for owner in recipe_classes():
        for field in owner.model_fields.values():
            variants = list(variants_of(field.annotation).values())
            if cls in variants:
                return variants
    return [cls]


# ---- types and defaults in words ----


def _classes_in(annotation: Any) -> list[type[Frozen]]:
    """Return the recipe classes that a value of the annotation may be or contain."""
    classes = []
    for member in union_members(annotation):
        if is_node(member):
            classes.append(member)
        elif typing.get_origin(member) is tuple:
            classes += [cls for argument in typing.get_args(member) for cls in _classes_in(argument)]
    return [*classes, *(cls for cls in variants_of(annotation).values() if cls not in classes)]  # those of plugins


def _takes_plain_value(annotation: Any) -> bool:
    """Return whether a number or text may be in the place of a class."""
    return any(member in (int, float, str, bool) for member in union_members(annotation))


def _is_sequence(annotation: Any) -> bool:
    return any(typing.get_origin(member) is tuple for member in union_members(annotation))


def _type_text(field: FieldInfo) -> str:
    text = " or ".join(dict.fromkeys(_member_texts(field.annotation)))
    bounds = [
        f"{sign} {getattr(constraint, name):g}"
        for constraint in field.metadata
        for name, sign in _BOUNDS.items()
        if isinstance(getattr(constraint, name, None), int | float)
    ]
    return f"{text}, {' and '.join(bounds)}" if bounds else text


def _member_texts(annotation: Any) -> Iterator[str]:
    members = union_members(annotation)
    if Steps in members or Tokens in members:
        amounts = ["5 %"] if Fraction in members else ["2 epochs", "10 % of base"] if Epochs in members else []
        yield f"amount ({', '.join(['300 steps', '2e6 tokens', '1e15 flops', *amounts])})"
        members = [member for member in members if member not in _AMOUNTS]
    for member in members:
        if member is type(None):
            yield "none"
        elif typing.get_origin(member) is Literal:
            # Sorted, as Python shares equal literals, and those of another order are equal.
            yield from sorted(str(value) for value in typing.get_args(member))
        elif typing.get_origin(member) is tuple:
            arguments = [argument for argument in typing.get_args(member) if argument is not Ellipsis]
            yield f"list of {' and '.join(' or '.join(_member_texts(argument)) for argument in arguments)}"
        elif is_node(member):
            yield member.model_fields["kind"].default if "kind" in member.model_fields else member.__name__
        else:
            yield {"int": "integer", "float": "number", "str": "text", "bool": "true or false"}.get(
                getattr(member, "__name__", ""), getattr(member, "__name__", str(member))
            )


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return _short_text(default)


def _short_text(value: Any) -> str:
    """Return a value as `value_text` does, but of a class its name alone."""
    if isinstance(value, Frozen) and not isinstance(value, _AMOUNTS):
        return str(getattr(value, "kind", f"{type(value).__name__}()"))
    if isinstance(value, tuple) and any(isinstance(item, Frozen) for item in value):
        return f"[{', '.join(map(_short_text, value))}]"
    return value_text(value)


# ---- values ----


def value_text(value: Any) -> str:
    """Return a value as an override writes it: `none`, `true`, `0.1`, `300 steps`, `[1, 2]`."""
    if isinstance(value, Fraction | FractionOf):
        text, of = f"{100 * value.n:g}", f" of {value.stage}" if isinstance(value, FractionOf) else ""
        return f"{text} %{of}" if float(text) / 100 == value.n else value.model_dump_json()
    if isinstance(value, Steps | Tokens | Flops | Epochs):
        return f"{value.n!r} {value.kind}"
    if isinstance(value, str):
        return value
    if isinstance(value, Frozen):
        return value.model_dump_json()
    if isinstance(value, tuple):
        return json.dumps([_plain(item) for item in value])
    return "none" if value is None else json.dumps(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json") if isinstance(value, Frozen) else value


def override_values(node: Frozen, *, changed: bool = False, prefix: str = "") -> dict[str, str]:
    """Return every value in a recipe by its path, as overrides write both: `{"stages.base.batch_size": "32"}`.

    Applied to the same recipe they change nothing. With `changed`, only what differs from the classes' defaults.
    """
    values: dict[str, str] = {}
    for name, field in type(node).model_fields.items():
        value, path = getattr(node, name), f"{prefix}{name}"
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if name == "kind" or _is_overruled(node, name) or (changed and not field.is_required() and value == default):
            continue
        values |= _values_of(value, path, changed)
    return values


def _is_overruled(node: Frozen, name: str) -> bool:
    """Return whether a field's default does not count: a learning rate beside a relative one."""
    relative = getattr(node, "relative_learning_rate", None) is not None
    return relative and name.endswith("learning_rate") and name not in node.model_fields_set


def _values_of(value: Any, path: str, changed: bool) -> dict[str, str]:
    if isinstance(value, tuple) and value and all(isinstance(item, Frozen) for item in value):
        names = [getattr(item, "name", str(number)) for number, item in enumerate(value)]
        items = [
            override_values(item, changed=changed, prefix=f"{path}.{name}.")
            for name, item in zip(names, value, strict=True)
        ]
        return {key: text for item in items for key, text in item.items()}
    if not isinstance(value, Frozen) or isinstance(value, _AMOUNTS):
        return {path: value_text(value)}
    kind = getattr(value, "kind", None)
    if kind is not None and not _has_defaults(type(value)):
        return {path: value_text(value)}  # the name of a variant stands for its defaults, which this one lacks
    return ({path: kind} if kind else {}) | override_values(value, changed=changed, prefix=f"{path}.")


def _has_defaults(cls: type[Frozen]) -> bool:
    try:
        cls()
    except ValidationError:
        return False
    return True
