"""Load, override and write recipes.

A recipe is a Python file. Once resolved it is JSON, which is read back equal, without running code.

Overrides are typed and addressed by path: `stages.base.optimizer.learning_rate=3e-4`. A stage is addressed by its name
or its index, and several by a pattern: `stages.*.data.corpus=corpora/x`. Values are JSON where they parse as JSON and
text otherwise; `none` and `null` are None. The name of a variant (`stages.base.optimizer=muon`) replaces the whole
subtree by that variant's own defaults.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import inspect
import json
import os
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.errors import UserError, did_you_mean, similar_path
from pathways_lite.paths import local_path
from pathways_lite.recipe.base import (
    Frozen,
    boolean_problem,
    field_hint,
    has_boolean,
    is_amount,
    is_node,
    meant_field,
    other_names,
    takes_boolean,
    union_members,
    variants_of,
)
from pathways_lite.recipe.fields import override_values, value_text
from pathways_lite.recipe.mistakes import explain_mistake, format_validation_error
from pathways_lite.recipe.sentences import explain
from pathways_lite.recipe.stage import Recipe
from pathways_lite.shipped_recipes import recipe_file, shipped_recipes

__all__ = ["apply_overrides", "load_recipe", "read_recipe", "write_recipe"]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of `recipe()` in the Python file (or of the resolved `.json`) at `path`, with `overrides`.

    `path` may also be the name of a recipe that comes with the package. Raises UserError if the file is missing, has
    no `recipe()`, or describes something invalid.
    """
    path = local_path(path)
    is_json = path.suffix == ".json" and path.is_file()
    recipe = read_recipe(path) if is_json else load_from_python(path, Recipe, "configs/demo.py")
    return apply_overrides(recipe, overrides)


def load_from_python[T: Frozen](path: Path, kind: type[T], example: str) -> T:
    """Call the function in a Python file that has the name of `kind` in lower case: `recipe() -> Recipe`.

    The file may be one that comes with the package, by its name. Raises UserError if it is missing, has no such
    function, or describes something invalid.
    """
    name, file = kind.__name__.lower(), recipe_file(path)
    if not file.is_file():
        if similar := similar_path(path) or _similar_name(path, name):
            raise UserError(f"no {name} at {path}{similar}")
        raise UserError(
            f"no {name} at {path}; give a Python file with a function {name}(), e.g. {example}, or a name from "
            "`pathways-lite recipe list`"
        )
    if file.suffix == ".json":
        raise UserError(f"{path} is JSON, which has no {name}; give the Python file with its function {name}()")
    try:
        with importing_from(file.parent):
            defined = runpy.run_path(str(file))
            function = defined.get(name)
            if name == "recipe" and callable(defined.get("study")) and _required(function) != ():
                raise UserError(f"{path} is a study, not a recipe; train it by: pathways-lite study run {path}")
            if name == "study" and not callable(function) and _required(defined.get("recipe")) == ():
                raise UserError(f"{path} is a recipe, not a study; train it by: pathways-lite train {path}")
            if arguments := _required(function):
                raise UserError(
                    f"{path}: {name}() is called without arguments, and takes {', '.join(arguments)}; give defaults"
                )
            if not callable(function):
                raise UserError(
                    f"{path} has no function {name}(); a {name} file defines `def {name}() -> {kind.__name__}`"
                )
            result = function()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename or path}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        raise UserError(explain_mistake(error, file)) from error
    if not isinstance(result, kind):
        missing = "; is `return` missing at its end?" if result is None else ""
        raise UserError(f"{path}: {name}() returned {type(result).__name__}, not a {kind.__name__}{missing}")
    return result


def _similar_name(path: Path, kind: str) -> str:
    """Return `. Did you mean 'demo'?` for what is like the name of a recipe or study that comes with the package."""
    names = [shipped.name for shipped in shipped_recipes() if kind in shipped.defines]
    hint = did_you_mean(path.as_posix().removeprefix("configs/").removesuffix(".py"), names, listed=False)
    return f".{hint}" if hint else ""


def _required(function: Any) -> tuple[str, ...] | None:
    """Return the arguments that a function cannot be called without; None for what is no function."""
    if not callable(function):
        return None
    parameters = inspect.signature(function).parameters.values()
    fillers = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in fillers)


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Import modules beside a Python file as `python FILE` does, and forget them afterwards.

    A file in another folder may import another module of the same name.
    """
    root = os.path.realpath(folder)
    before = set(sys.modules)
    sys.path.insert(0, root)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(root)
        for name in set(sys.modules) - before:
            package = name.partition(".")[0]
            if package not in before and (Path(root, f"{package}.py").is_file() or Path(root, package).is_dir()):
                del sys.modules[name]


def write_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write the recipe as JSON with every default spelled out. A reader sees either the old file or the new one."""
    try:
        write_text_atomically(Path(path), recipe.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free some space, or write elsewhere") from error


def read_recipe(path: str | Path) -> Recipe:
    """Read what `write_recipe` wrote. Raises UserError if the file is not a recipe."""
    text = ""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return Recipe.model_validate_json(text)
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from error
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] == "json_invalid":
            raise UserError(
                f"{path} is empty, cut off or not JSON, as after a power cut. In a run directory: remove it, and the "
                "same train command writes it again and continues from the checkpoints"
            ) from error
        raise UserError(
            f"{path} is not a recipe of this version.\n{format_validation_error(error, document=json.loads(text))}"
        ) from error


# ---- overrides ----


def apply_overrides[T: Frozen](root: T, overrides: Sequence[str]) -> T:
    """Return `root` with each `path=value` applied in turn, and then validated: rules between fields hold for all.

    Raises UserError with the path, what was found and what to write instead.
    """
    changed, written = root, []
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise UserError(f"{override!r} is not an override; write path=value, e.g. stages.base.batch_size=32")
        changed = _set(changed, path.strip().split("."), text.strip(), parents=())
        written.append((path.strip(), text.strip()))
    result: T = _validate_changes(root, changed, written, parents=())
    return result


def _set(node: Any, path: list[str], text: str, parents: tuple[str, ...]) -> Any:
    name, rest = path[0], path[1:]
    full_path = (*parents, name)
    if isinstance(node, tuple):
        chosen = _indices_of(node, name, full_path)
        if not rest:
            raise UserError(f"{'.'.join(full_path)} is a whole {type(node[chosen[0]]).__name__}; name a field of it")
        return tuple(_set(item, rest, text, full_path) if i in chosen else item for i, item in enumerate(node))
    if not isinstance(node, Frozen):
        raise UserError(f"{'.'.join(parents)} is {value_text(node)} and has no field {name!r}")
    owner = type(node)
    field, fields = owner.current_name(name), owner.model_fields
    if field not in fields:
        hint = field_hint(owner, name) if parents else _hint_at_root(node, path)
        raise UserError(f"{'.'.join(parents) or owner.__name__} has no field {name!r}.{hint}")
    inner = getattr(node, field, None) if rest else None
    if rest and inner is None:
        inner = _begin(fields[field].annotation, full_path)
    value = _set(inner, rest, text, full_path) if rest else _parse(owner, field, text, full_path)
    return node.copy_unchecked(**{field: value})


def _hint_at_root(root: Frozen, path: list[str]) -> str:
    """Return a hint for a path that does not begin at the root: the path in `root` that ends in its first name."""
    parts = [key.split(".") for key in override_values(root)]
    prefixes = list(dict.fromkeys(tuple(key[:n]) for key in parts for n in range(2, len(key) + 1)))
    for name in (path[0], *other_names(path[0])):
        ending = [prefix for prefix in prefixes if prefix[-1] == name]
        shortest = [prefix for prefix in ending if len(prefix) == min(map(len, ending))]
        if shortest:
            first, *others = shortest
            same = others and all(first[:1] + first[2:] == other[:1] + other[2:] for other in others)
            rest = path[1:]
            hint = f" Did you mean {'.'.join([*first, *rest])!r}"
            return (
                f"{hint}, or {'.'.join([first[0], '*', *first[2:], *rest])!r} for all stages?" if same else f"{hint}?"
            )
    fields = [name for name in type(root).model_fields if name != "kind"]
    below = next((".".join(key) for key in parts if len(key) > 2), None)
    example = f". Those of a stage are e.g. {below}; `pathways-lite recipe fields` lists all" if below else ""
    return did_you_mean(path[0], fields, meant=meant_field(path[0], fields)) + example


def _begin(annotation: Any, full_path: tuple[str, ...]) -> Frozen:
    """Return the node whose fields are set where there is none: the class that the field may hold, with its defaults.

    What has no default is missing there, until it is set or the whole is validated.
    """
    nodes = [member for member in union_members(annotation) if is_node(member)]
    path = ".".join(full_path)
    if variants := variants_of(annotation):
        raise UserError(f"{path} is none; choose what it is first, e.g. {path}={next(iter(variants))}")
    if len(nodes) != 1:
        raise UserError(f"{path} is none, so it has no fields to set; give the whole value")
    return nodes[0].model_construct()


def _validate_changes(old: Any, new: Any, written: Sequence[tuple[str, str]], parents: tuple[str, ...]) -> Any:
    """Validate the nodes of `new` that are not those of `old`, the innermost first; `written`: the overrides."""
    if new is old:
        return new
    if isinstance(new, tuple):
        names = [getattr(item, "name", str(i)) for i, item in enumerate(new)]
        before = old if isinstance(old, tuple) and len(old) == len(new) else (None,) * len(new)
        triples = zip(names, before, new, strict=True)
        return tuple(_validate_changes(a, b, written, (*parents, name)) for name, a, b in triples)
    if not isinstance(new, Frozen):
        return new
    fields = {
        name: _validate_changes(getattr(old, name, None), value, written, (*parents, name))
        for name, value in new
        if name in new.model_fields_set
    }
    try:
        return type(new).model_validate(fields)
    except ValidationError as error:
        raise UserError(_with_override(_overrides_below(parents, written), _messages(error, type(new)))) from error


def _with_override(override: str, problem: str) -> str:
    """Put an override before what is wrong with it, which may begin with the field and its value, too."""
    path, _, text = override.partition("=")
    match = re.match(r"([a-z_.0-9]+)=(\S+)(?: steps)? (?=must|is|has|does|needs|leaves)", problem)
    if match is not None and "=" not in text and f".{path}".endswith(f".{match[1]}") and _is_same_value(match[2], text):
        return f"{override} {problem[match.end() :]}"
    return f"{override}: {problem}"


def _is_same_value(one: str, other: str) -> bool:
    try:
        return float(one) == float(other.split()[0])
    except (ValueError, IndexError):
        return one == other


def _overrides_below(parents: tuple[str, ...], written: Sequence[tuple[str, str]]) -> str:
    """Return the overrides of fields of the node at `parents`; all of them where it was named otherwise."""
    below = [f"{path}={text}" for path, text in written if _is_at_or_below(path.split("."), parents)]
    return " ".join(below or [f"{path}={text}" for path, text in written])


def _is_at_or_below(path: Sequence[str], parents: tuple[str, ...]) -> bool:
    """Return whether a path, which may have `*`, leads below the node at `parents`."""
    pairs = zip(parents, path, strict=False)
    return len(path) > len(parents) and all(fnmatch.fnmatchcase(parent, part) for parent, part in pairs)


def _indices_of(items: tuple[Any, ...], name: str, full_path: tuple[str, ...]) -> list[int]:
    """Return the items that a part of a path names: one, or with `*` and `?` all whose name matches."""
    names = [getattr(item, "name", str(i)) for i, item in enumerate(items)]
    if matching := [i for i, other in enumerate(names) if fnmatch.fnmatchcase(other, name)]:
        return matching
    if name.isdigit() and int(name) < len(items):
        return [int(name)]
    raise UserError(f"{'.'.join(full_path)}: there is no {name!r}.{did_you_mean(name, names)}")


def _messages(error: ValidationError, annotation: Any) -> str:
    """Return what is wrong with a value, with the places inside it."""
    lines = []
    for location, sentence in explain(error, annotation, as_json=True):
        path = ".".join(map(str, location))
        if sentence == "Field required":
            lines.append(f"{path} is required")
        else:
            lines.append(f"{path}: {sentence}" if path else sentence)
    return "; ".join(dict.fromkeys(lines))


def _parse(owner: type[Frozen], name: str, text: str, full_path: tuple[str, ...]) -> Any:
    """Parse `text` as a value of the field's type."""
    field = owner.model_fields[name]
    # pydantic separates the discriminator and metadata (bounds, parsers) from the annotation. Without a discriminator
    # a wrong value would be refused by every member of a union, and not by the one that it names.
    parts = [*([Field(discriminator=field.discriminator)] if field.discriminator else []), *field.metadata]
    annotation: Any = Annotated[field.annotation, *parts] if parts else field.annotation
    if variant := _variant_named(field.annotation, text):
        try:
            return variant()
        except ValidationError as error:
            missing = ", ".join(str(e["loc"][0]) for e in error.errors() if e["loc"])
            problem = f"{text} has no default for {missing}" if missing else _messages(error, variant)
            raise UserError(f"{'.'.join(full_path)}={text}: {problem}; give it as JSON") from error
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    refusals = []
    for candidate in _candidates(text):
        if not takes_boolean(field.annotation) and has_boolean(candidate):
            raise UserError(f"{'.'.join(full_path)}={text}: {boolean_problem(field.annotation, candidate)}")
        try:
            return adapter.validate_python(candidate)
        except ValidationError as error:
            refusals.append(error)
    problem = _messages(refusals[0], annotation)
    variants = variants_of(field.annotation)
    if variants and text.isidentifier() and not is_amount(field.annotation):
        problem = f"there is no {text!r}.{did_you_mean(text, variants)}"
    raise UserError(_with_override(f"{'.'.join(full_path)}={text}", problem)) from refusals[0]


def _variant_named(annotation: Any, text: str) -> type[Frozen] | None:
    """Return the variant of a union that a text names, by its kind or its class; plugins are imported if none does."""
    for built_in in (True, False) if text.replace("-", "_").isidentifier() else ():
        variants = variants_of(annotation, built_in=built_in)
        # The paper's term is often the name of the class: `operator=ligo` is `operator=learned`.
        by_class = {variant.__name__.lower(): variant for variant in variants.values()}
        if variant := variants.get(text) or by_class.get(text.lower()):
            return variant
    return None


def _candidates(text: str) -> list[Any]:
    """Return the readings of `text`, the most likely first: JSON (so `1e3` is a number), then plain text."""
    if text.lower() in ("none", "null"):
        return [None, text]  # some fields have a choice of that name
    if text.lower() in ("true", "false"):
        return [text.lower() == "true"]
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return [text]
    return [value] if isinstance(value, list | dict) else [value, text]
