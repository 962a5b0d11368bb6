"""What the parser of the command line refuses, as a sentence with the command that was probably meant."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from pathways_lite.errors import UserError, closest_names, did_you_mean, without_prefix

_PROGRAM = "pathways-lite"
_MOST = 5  # options that are named
_EXPECTED = {"integer": "a whole number is expected, e.g. 16", "number": "a number is expected, e.g. 0.5"}


def explain_usage(error: Any, words: Sequence[str]) -> UserError | None:
    """Return a sentence for an error of the parser; None for any other error, and for a value that an option refuses.

    Args:
      error: an exception. Typer gives those of its parser no public names.
      words: of the command line, after the program's name.
    """
    ctx, message = getattr(error, "ctx", None), getattr(error, "message", None)
    if ctx is None or not isinstance(message, str):
        return None
    if hasattr(error, "possibilities"):
        return UserError(_unknown_option(error.option_name, ctx))
    if hasattr(error, "param_type"):
        return UserError(_missing(error.param, ctx, words))
    if message.startswith("Got unexpected extra argument"):
        return UserError(_left_over(ctx, words))
    if match := re.match(r"No such command '(.*?)'\.", message):
        return UserError(_unknown_command(match[1], ctx))
    return None


def explain_value(message: str) -> str:
    """Return what the parser says of an option's value, with what is expected or was probably meant."""
    message = without_prefix(message)
    if match := re.match(r"Input should be a valid (integer|number), unable to parse", message):
        return _EXPECTED[match[1]]
    if match := re.fullmatch(r"'(.*)' is not one of ('.*')\.", message):
        choices = re.findall(r"'([^']*)'", match[2])
        message += did_you_mean(match[1], choices, listed=False)
    return message


def _unknown_option(name: str, ctx: Any) -> str:
    options = [option for param in _options(ctx) for option in (*param.opts, *param.secondary_opts)]
    by_name = {option.lstrip("-"): option for option in options}
    close = closest_names(name.lstrip("-"), by_name)
    sentence = f"{_path(ctx)} has no option {name}."
    if close:
        return f"{sentence}{did_you_mean(name, (), meant=by_name[close[0]])}"
    if any(param.name == "overrides" for param in ctx.command.params):
        return f"{sentence} A value of the recipe is given without an option, e.g. stages.base.batch_size=32"
    return sentence + did_you_mean(name, options)


def _missing(param: Any, ctx: Any, words: Sequence[str]) -> str:
    is_option = param.param_type_name == "option"
    name = param.opts[0] if is_option else _placeholder(param)
    sentence = f"{_path(ctx)} needs {name}: {param.help or 'see --help'}."
    given, left = _parsed(ctx, words)
    if is_option and left and _accepts(param, ctx, left[0]):
        return f"{sentence} {_with_option(param, left, 1, words)}"
    if is_option:
        return sentence
    arguments = [other for other in ctx.command.params if other.param_type_name == "argument"]
    shape = " ".join(_given_text(given.get(other.name)) or _placeholder(other) for other in arguments if other.required)
    return f"{sentence} Write: {_path(ctx)} {shape}"


def _given_text(value: Any) -> str:
    """Return an argument as it was given, quoted; "" for one that was not."""
    if value is None or isinstance(value, tuple | list):
        return " ".join(map(shlex.quote, value or ()))
    return shlex.quote(value) if isinstance(value, str) else ""


def _left_over(ctx: Any, words: Sequence[str]) -> str:
    given, left = _parsed(ctx, words)
    text = " ".join(left)
    siblings = getattr(ctx.parent and ctx.parent.command, "commands", {})
    depth = len(_names(ctx)) - 1  # of the command's own name
    is_default = depth < len(words) and ctx.command.name != words[depth]  # the command that a group has without a name
    if is_default and (close := closest_names(words[depth], siblings)):
        meant = did_you_mean(words[depth], (), meant=close[0])
        return f"{_path(ctx.parent)} has no command {words[depth]!r}.{meant}"
    names = [_placeholder(param) for param in ctx.command.params if param.param_type_name == "argument"]
    takes = f"takes {' and '.join(names)} alone" if names else "takes options alone"
    sentence = f"{_path(ctx)} {takes}, and {text!r} is left over."
    for values in (left, left[:1]) if len(left) > 1 else (left,):
        fitting = _options_for(" ".join(values), ctx, given)
        if fitting:
            others = [param.opts[0] for param in fitting[1 : 1 + _MOST]]
            return f"{sentence} {_with_option(fitting[0], left, len(values), words, others)}"
    return f"{sentence} {_path(ctx)} --help lists its options"


def _unknown_command(name: str, ctx: Any) -> str:
    group, path = ctx.command, _path(ctx)
    sentence = f"{path} has no command {name!r}."
    groups = {other: getattr(sub, "commands", {}) for other, sub in group.commands.items()}
    elsewhere = [f"{path} {other} {name}" for other, commands in groups.items() if name in commands]
    meant = elsewhere[0] if elsewhere and not closest_names(name, group.commands) else None
    return sentence + did_you_mean(name, group.commands, meant=meant)


# ---- what the words of the command line were taken for ----


def _names(ctx: Any) -> list[str]:
    """Return the names of a command and its groups, without the program's."""
    return [] if ctx.parent is None else [*_names(ctx.parent), ctx.info_name]


def _path(ctx: Any) -> str:
    return " ".join([_PROGRAM, *_names(ctx)])


def _parsed(ctx: Any, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return what was given for each parameter, as text, and the words that are left over."""
    rest = list(words)
    for name in _names(ctx):
        if rest and rest[0] == name:  # the default command of a group is not written
            del rest[0]
    given, left, _ = ctx.command.make_parser(ctx).parse_args(args=rest)
    return given, left


def _options(ctx: Any) -> list[Any]:
    return [param for param in ctx.command.get_params(ctx) if param.param_type_name == "option"]


def _placeholder(param: Any) -> str:
    return str(param.metavar or param.name).upper().rstrip(".")


def _options_for(value: str, ctx: Any, given: dict[str, Any]) -> list[Any]:
    """Return the options that take a value and are not given yet, those first that take few others."""
    options = [param for param in _options(ctx) if not param.is_flag and param.name not in (*given, "help")]
    kinds: tuple[Callable[[Any], bool], ...] = (_is_choice, _is_number, _is_text, _is_path)
    if Path(value).exists():
        kinds = (_is_choice, _is_number, _is_path, _is_text)
    for is_kind in kinds:
        if fitting := [param for param in options if is_kind(param) and _accepts(param, ctx, value)]:
            return fitting
    return []


def _accepts(param: Any, ctx: Any, value: str) -> bool:
    try:
        param.process_value(ctx, [value] if param.multiple else value)
    except (typer.BadParameter, UserError, ValueError):
        return False
    return True


def _types(param: Any) -> set[Any]:
    """Return the types of an option's value, without None and list."""
    annotation = param.type_descriptor.annotation
    found, open_types = set[Any](), [annotation]
    while open_types:
        each = open_types.pop()
        if get_origin(each) is not Literal and get_args(each):
            open_types += get_args(each)
        else:
            found.add(each)
    return found


def _is_choice(param: Any) -> bool:
    return bool(param.type_descriptor.is_choice)


def _is_number(param: Any) -> bool:
    return bool(_types(param) & {int, float})


def _is_path(param: Any) -> bool:
    return Path in _types(param)


def _is_text(param: Any) -> bool:
    return str in _types(param) and not _is_choice(param)


def _with_option(param: Any, left: Sequence[str], count: int, words: Sequence[str], others: Sequence[str] = ()) -> str:
    """Return the command line with the first `count` words that are left over as the value of an option.

    `others`: further options that take such a value.
    """
    kept = list(words)
    for word in reversed(left):
        del kept[len(kept) - 1 - kept[::-1].index(word)]
    command = shlex.join([_PROGRAM, *kept, param.opts[0], " ".join(left[:count]), *left[count:]])
    also = f" Also {', '.join(others)} {'takes' if len(others) == 1 else 'take'} such a value." if others else ""
    return f"Did you mean {param.opts[0]}?{also} Write: {command}"
