"""Say in sentences what is wrong in a recipe: the field, what was found, what was expected, and the file's line."""

from __future__ import annotations

import ast
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pathways_lite.errors import did_you_mean
from pathways_lite.recipe.base import Frozen, meant_field
from pathways_lite.recipe.fields import recipe_classes
from pathways_lite.recipe.sentences import Location, explain

__all__: list[str] = []

# ---- what is wrong ----


def format_validation_error(error: ValidationError, prefix: str = "", document: Any = None) -> str:
    """Format a validation error as sentences, `path: what is wrong`, one per line.

    `document` is what was validated, where it is JSON: stages are then called by their names.
    """
    return "\n".join(_sentences(error, prefix, document, as_json=document is not None))


def _sentences(error: ValidationError, prefix: str, document: Any, *, as_json: bool) -> list[str]:
    cls = {cls.__name__: cls for cls in recipe_classes()}.get(error.title, Any)
    lines = []
    for location, sentence in explain(error, cls, as_json=as_json):
        path = ".".join([*([prefix] if prefix else []), *_path_in(location, document)])
        lines.append(f"{path}: {sentence}" if path else sentence)
    return list(dict.fromkeys(lines))


def _path_in(location: Location, document: Any) -> Iterator[str]:
    """Yield the parts of a path, stages by name."""
    for key in location:
        if isinstance(document, list) and isinstance(key, int) and key < len(document):
            document = document[key]
            yield str(document.get("name", key) if isinstance(document, dict) else key)
        else:
            document = document.get(key) if isinstance(document, dict) else None
            yield str(key)


# ---- where it is ----


def explain_mistake(error: Exception, path: Path) -> str:
    """Say what went wrong in the Python file at `path` or a module beside it, with the line that led to it."""
    frame = _own_frame(error, path)
    if frame is None:
        return f"{path}: {_describe(error, None)}"
    call, around = _find_call(frame)
    line = frame.lineno
    if isinstance(error, ValidationError):
        names = [str(name) for item in error.errors(include_url=False) for name in _names_in(item)]
        line = next((found for name in names if (found := _line_of(call, name))), line)
    stage = _stage_name(error, around)
    place = f"{frame.filename}:{line}"
    return (
        f"{place}: {_describe(error, call)}" if stage is None else f"{place}: stage {stage!r}: {_describe(error, call)}"
    )


def _describe(error: Exception, call: ast.Call | None) -> str:
    if isinstance(error, ValidationError):
        sentences = _sentences(error, error.title, None, as_json=False)
        # Rules between fields name what they are about.
        sentences = [text.removeprefix(f"{error.title}: ") for text in sentences]
        return "\n  ".join(["the recipe is invalid:", *sentences] if len(sentences) > 1 else sentences)
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, TypeError) and "BaseModel.__init__() takes 1 positional argument" in str(error):
        name = _called(call) or "this class"
        return f"{name} takes its fields by name: {name}({_first_field(name)}=...)"
    if isinstance(error, ImportError):
        wanted = getattr(error, "name_from", None)
        if wanted is not None and (error.name or "").startswith("pathways_lite.recipe"):
            return f"there is no {wanted!r} in {error.name}.{_similar_class(wanted)} See `pathways-lite recipe fields`"
        return f"{error}; put that module beside the file, or install it"
    if isinstance(error, NameError):
        return text + ("." * bool(hint := _similar_class(str(error.name))) + hint)
    if isinstance(error, AttributeError) and isinstance(error.obj, Frozen):
        cls = type(error.obj)
        name, fields = str(error.name), list(cls.model_fields)
        return f"{cls.__name__} has no field {name!r}.{did_you_mean(name, fields, meant=meant_field(name, fields))}"
    return text


def _similar_class(name: str) -> str:
    return did_you_mean(name, [cls.__name__ for cls in recipe_classes()], listed=False)


def _first_field(name: str) -> str:
    cls = {cls.__name__: cls for cls in recipe_classes()}.get(name)
    fields = [field for field in (cls.model_fields if cls else ()) if field != "kind"]
    return fields[0] if fields else "field"


def _names_in(item: Any) -> tuple[Any, ...]:
    return item["loc"][:1] or ((item.get("ctx") or {}).get("name", ""),)


def _own_frame(error: BaseException, path: Path) -> traceback.FrameSummary | None:
    """Return the innermost line of the user's folder that led to an error."""
    root = os.path.realpath(path.parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_below(frame.filename, root)]
    return frames[-1] if frames else None


def _is_below(file: str, root: str) -> bool:
    own = os.path.realpath(Path(__file__).parent.parent)
    real = Path(os.path.realpath(file))
    return real.is_relative_to(root) and not real.is_relative_to(own) and "site-packages" not in file


def _find_call(frame: traceback.FrameSummary) -> tuple[ast.Call | None, list[ast.Call]]:
    """Return the call at a line that was running, and the calls in whose arguments it is, the innermost first."""
    try:
        tree = ast.parse(Path(frame.filename).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None, []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    start = (frame.lineno, frame.colno)
    exact = [call for call in calls if (call.lineno, call.col_offset) == start and call.end_lineno == frame.end_lineno]
    if not exact:
        return None, []
    call = max(exact, key=lambda call: call.end_col_offset or 0)
    around = [outer for outer in calls if outer is not call and any(node is call for node in ast.walk(outer))]
    return call, sorted([call, *around], key=lambda outer: (outer.lineno, outer.col_offset), reverse=True)


def _called(call: ast.Call | None) -> str | None:
    function = None if call is None else call.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", None)


def _line_of(call: ast.Call | None, name: str) -> int | None:
    """Return the line on which a call gives the field `name`, as an argument or a key."""
    for node in ast.walk(call) if call is not None and name else ():
        if isinstance(node, ast.keyword) and node.arg == name:
            return node.lineno
        if isinstance(node, ast.Dict):
            for key in node.keys:
                if isinstance(key, ast.Constant) and key.value == name:
                    return key.lineno
    return None


def _stage_name(error: Exception, around: list[ast.Call]) -> str | None:
    """Return the name of the stage that a mistake is in, where the file or the values tell."""
    if isinstance(error, ValidationError) and error.title == "Stage":
        value = error.errors(include_url=False)[0].get("input")
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            return str(value["name"])
    for call in around:
        if _called(call) == "Stage":
            for keyword in call.keywords:
                if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
            return None
    return None
