"""The corpora of a recipe or study that are not there: how its file says they are built, and building them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from pathways_lite.errors import UserError


def require_corpora(file: Path, corpora: Iterable[str], *, build: bool = False) -> None:
    """Raise UserError for a missing corpus of which the file's docstring has the command that builds it.

    With `build`, the corpora of a file that comes with the package are built, where nothing but Python is needed. What
    the file says nothing of is left to those who open it.
    """
    for corpus in dict.fromkeys(corpora):
        command = _command_of_missing(file, corpus)
        if command is None:
            continue
        if not (build and _needs_python_only(command) and _is_shipped(file)):
            raise UserError(f"{corpus} is not a token store yet; build it as {file.name} says: {shlex.join(command)}")
        _build(corpus, command)


def _command_of_missing(file: Path, corpus: str) -> list[str] | None:
    """Return the words of the command that builds a missing corpus; None if it is there, or the file has none."""
    from pathways_lite.data.store import MANIFEST
    from pathways_lite.paths import local_path, url_scheme
    from pathways_lite.shipped_recipes import corpus_command

    if file.suffix != ".py" or not corpus or url_scheme(corpus) or (local_path(corpus) / MANIFEST).exists():
        return None
    return corpus_command(file, corpus)


def _is_shipped(file: Path) -> bool:
    from pathways_lite.shipped_recipes import shipped_paths

    return file.resolve() in {path.resolve() for path in shipped_paths().values()}


def _needs_python_only(command: list[str]) -> bool:
    """Return whether `data build CORPUS SOURCES... --tokenizer NAME` reads the text that comes with Python alone."""
    sources = command[4 : next((i for i, word in enumerate(command) if word.startswith("--")), None)]
    tokenizer = command[command.index("--tokenizer") + 1] if "--tokenizer" in command else ""
    return sources == ["python:"] and tokenizer.partition(":")[0] in ("bytes", "sentencepiece")


def _build(corpus: str, command: list[str]) -> None:
    """Run the command in a process of its own, which leaves no threads or memory here. Raises SystemExit as it does."""
    from pathways_lite.console import print_line

    print_line(f"{corpus} is not there yet, and is built first: {shlex.join(command)}")
    status = subprocess.run([sys.executable, "-m", "pathways_lite", *command[1:]], check=False).returncode
    if status:
        raise SystemExit(status if status > 0 else 128 - status)  # by a signal, as shells say it
