"""Sentences for what is wrong with a value of a recipe: what is expected there, what was found, what to write."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ValidationError

from pathways_lite.errors import did_you_mean, without_prefix
from pathways_lite.recipe.base import Frozen, is_node, union_members, variants_of
from pathways_lite.suffixes import POWERS_OF_TEN

__all__: list[str] = []

Location = tuple[str | int, ...]

_ALTERNATIVES = ("int", "float", "str", "bool")
# What pydantic calls a value of another type, in its own words; the field's annotation says it in the user's.
_WRONG_TYPES = frozenset(
    {
        "model_type", "model_attributes_type", "dataclass_type", "dict_type", "union_tag_not_found", "tuple_type",
        "list_type", "iterable_type", "int_type", "int_parsing", "int_from_float", "float_type", "float_parsing",
        "string_type", "bool_type", "bool_parsing", "none_required", "literal_error",
    }
)  # fmt: skip
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_LONGEST = 60  # characters of a value that was found


def explain(error: ValidationError, annotation: Any, *, as_json: bool = False) -> Iterator[tuple[Location, str]]:
    """Yield where a value is wrong, within what was validated as `annotation`, and a sentence about it.

    Where several alternatives were tried, what the value is nearest to speaks for all. `as_json`: what to write is
    given as JSON, and not in Python.
    """
    found: dict[Location, list[tuple[dict[str, Any], list[Any]]]] = {}
    for item in error.errors(include_url=False):
        location, members = _locate(annotation, item["loc"])
        found.setdefault(location, []).append((dict(item), members))
    for location, items in found.items():
        deeper = any(other[: len(location)] == location != other for other in found)
        definite = [pair for pair in items if pair[0]["type"] not in _WRONG_TYPES]
        if deeper:  # a list is too short where its items are refused, and the other alternatives are not meant
            definite = [pair for pair in definite if pair[0]["type"] != "too_short"]
        elif not definite:
            members = [member for _, members in items for member in members]
            value = items[0][0].get("input")
            whole = _members_at(annotation, location) or members
            yield location, _wrong_type(value, whole, items[0][0], as_json)
        for finding, _ in definite:
            yield location, _sentence(finding)


# ---- where ----


def _locate(annotation: Any, location: tuple[Any, ...]) -> tuple[Location, list[Any]]:
    """Return a location without the alternatives that pydantic puts between, and what may be there."""
    members, path = union_members(annotation), list[str | int]()
    for key in location:
        nodes = [member for member in members if is_node(member)]
        tagged = [
            node for node in nodes if key in (node.__name__, getattr(node.model_fields.get("kind"), "default", 0))
        ]
        owners = [node for node in nodes if isinstance(key, str) and node.current_name(key) in node.model_fields]
        if isinstance(key, int):
            arguments = [part for member in members for part in _item_types(member)]
            members = [member for part in arguments for member in union_members(part)]
            path.append(key)
        elif owners and not (tagged and key not in owners[0].model_fields):
            fields = [owner.model_fields[owner.current_name(key)] for owner in owners]
            members = [member for field in fields for member in union_members(field.annotation)]
            path.append(key)
        elif tagged:
            members = tagged
        elif key in _ALTERNATIVES or "[" in key:
            continue
        else:
            members = []
            path.append(key)
    return tuple(path), members


def _members_at(annotation: Any, location: Location) -> list[Any]:
    return _locate(annotation, location)[1]


def _item_types(member: Any) -> list[Any]:
    if typing.get_origin(member) is not tuple:
        return []
    return [argument for argument in typing.get_args(member) if argument is not Ellipsis]


# ---- what ----


def _sentence(item: dict[str, Any]) -> str:
    """Return one of pydantic's findings about a value of the right type."""
    value, kind, context = item.get("input"), item["type"], item.get("ctx", {})
    if kind == "missing":
        return "Field required"
    if kind == "frozen_instance":
        return "recipes are immutable: use model_copy(update={...}), which returns a changed copy"
    if kind == "union_tag_invalid":
        kinds = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"there is no {context['tag']!r}.{did_you_mean(context['tag'], kinds)}"
    message = without_prefix(item["msg"])
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"it must be {words} {context[name]:g}, not {_short(value)}"
    if kind == "int_parsing_size":
        return f"{_short(value)} is too large for a whole number"
    if kind in ("too_short", "too_long"):
        bound = context.get("min_length", context.get("max_length"))
        words = "at least" if kind == "too_short" else "at most"
        return f"{words} {bound} {'is' if bound == 1 else 'are'} expected, not {len(value or ())}"
    # The "input" of an unknown field is the whole object around it, which helps nobody.
    plain = isinstance(value, Frozen | dict) or kind == "value_error"
    return message if plain else f"{message} (found {_short(value)})"


def _wrong_type(value: Any, members: list[Any], item: dict[str, Any], as_json: bool) -> str:
    """Say what is expected where a value of another type was found."""
    nodes = [member for member in members if is_node(member)]
    variants = {kind: node for node in nodes for kind, node in variants_of(node).items()}
    choices = [str(choice) for m in members if typing.get_origin(m) is Literal for choice in typing.get_args(m)]
    if isinstance(value, str) and variants:
        names = list(variants) if as_json else [variant.__name__ for variant in variants.values()]
        exact = variants.get(value.lower())
        hint = f" Write {exact.__name__}()" if exact and not as_json else did_you_mean(value, names)
        return f"{value!r} is text, but one of the classes is expected.{hint}"
    if isinstance(value, str) and choices and len(members) == len([m for m in members if m is not type(None)]):
        return f"there is no {value!r}.{did_you_mean(value, choices)}"
    names = list(dict.fromkeys(_names(members, as_json)))
    expected = " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 2 else names)
    why = ", which has a fractional part" if item["type"] == "int_from_float" else ""
    example = _example(value, nodes, as_json) if type(None) in members else ""
    example = example or (_as_whole_number(value) if int in members else "")
    return f"{expected or 'something else'} is expected, not {_short(value)}{why}{example}"


def _names(members: list[Any], as_json: bool) -> Iterator[str]:
    """Yield what each alternative is called."""
    for member in members:
        if member is type(None):
            continue
        if is_node(member):
            kind = member.model_fields["kind"].default if "kind" in member.model_fields else None
            name = kind if as_json and kind else member.__name__
            yield f"{name} {member.json_example}" if as_json and member.json_example else name
        elif typing.get_origin(member) is tuple:
            yield "a list" if as_json else "a tuple"
        elif typing.get_origin(member) is Literal:
            yield from (repr(choice) for choice in typing.get_args(member))
        else:
            names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
            yield names.get(member, str(getattr(member, "__name__", member)))


def _as_whole_number(value: Any) -> str:
    """Return how a number with a suffix is written, which may stand for a power of ten or of two; "" for others."""
    match = re.fullmatch(r"(\d+)([kKMG])", value) if isinstance(value, str) else None
    if match is None:
        return ""
    power = POWERS_OF_TEN[match[2]]
    return f"; write {int(match[1]) * 2 ** (power // 3 * 10)}, or {int(match[1]) * 10**power}"


def _example(value: Any, nodes: list[type[Frozen]], as_json: bool) -> str:
    """Return how a class is written whose first field was probably meant; "" where no field takes the value."""
    if len(nodes) != 1 or not isinstance(value, int | float | str):
        return ""
    for name in nodes[0].model_fields:
        if name == "kind":
            continue
        try:
            nodes[0].model_validate({name: value})
        except ValidationError:
            continue
        return f"; write {json.dumps({name: value})}" if as_json else f"; write {nodes[0].__name__}({name}={value!r})"
    return ""


def _short(value: Any) -> str:
    if isinstance(value, Frozen):
        return f"{type(value).__name__}(...)"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
