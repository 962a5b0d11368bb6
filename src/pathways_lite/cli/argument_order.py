"""Refuse two arguments that are in each other's place, and print the command as it should be."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from pathways_lite.errors import UserError

_words: list[str] = []
"""The words of the command that runs, after the program's name."""


def remember_words(words: Sequence[str]) -> None:
    """Note the words of the command line, before they are parsed."""
    _words[:] = words


def given_words() -> list[str]:
    """Return the words of the command that runs."""
    return list(_words)


def require_order(first: str | Path, second: str | Path, kind: str, fits: Callable[[Path], bool]) -> None:
    """Raise UserError, with the right command, where not `first` but `second` is what `first` should be.

    `kind` says what that is, as in "a run"; `fits` decides whether an argument is.
    """
    if fits(Path(first)) or not fits(Path(second)):
        return
    places = {_as_path(str(first)): str(second), _as_path(str(second)): str(first)}
    command = shlex.join(["pathways-lite", *(places.get(_as_path(word), word) for word in _words)])
    raise UserError(
        f"{second} is {kind}, and {first} is not: the order of the two seems to be swapped. Write: {command}"
    )


def _as_path(word: str) -> str:
    return word if "://" in word else str(Path(word))


def is_run(path: Path) -> bool:
    """Return whether a directory is that of a run, a stage or a checkpoint; nothing is read."""
    from pathways_lite.checkpoint_names import checkpoint_steps, step_of

    inside = (path / "recipe.json", path / "checkpoints")
    return path.is_dir() and (
        step_of(path) is not None or any(other.exists() for other in inside) or bool(checkpoint_steps(path))
    )
