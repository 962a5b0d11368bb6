"""Not a test: the command line as users have it, and what its help lists."""

import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What help looks like depends on these.
TERMINAL = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it printed."""

    status: int
    stdout: str
    stderr: str


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Ends with this process, as its standard input does."""
    command = [sys.executable, str(Path(__file__).parent / "command_server.py")]
    return subprocess.Popen(
        command, env=os.environ | TERMINAL, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run(*words: object, directory: Path | None = None) -> Outcome:
    """Run `pathways-lite WORDS...` in `directory`, by default the current one, in a process of its own."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as temporary:
        outputs = {name: Path(temporary) / name for name in ("stdout", "stderr")}
        request = {"argv": [str(word) for word in words], "directory": str(directory or Path.cwd())}
        request |= {name: str(path) for name, path in outputs.items()}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        texts = {name: path.read_text(encoding="utf-8", errors="replace") for name, path in outputs.items()}
    return Outcome(status, **texts)


def succeed(*words: object, directory: Path | None = None) -> str:
    """Run a command that must succeed, and return its standard output."""
    outcome = run(*words, directory=directory)
    assert outcome.status == 0, f"{words}: exit status {outcome.status}\n{outcome.stdout}\n{outcome.stderr}"
    return outcome.stdout


# ---- help ----


@dataclass(frozen=True)
class Help:
    """What one page of help lists."""

    commands: frozenset[str]
    arguments: tuple[str, ...]
    options: dict[str, str]  # flag -> default, empty where none is shown


def help_text(words: tuple[str, ...]) -> str:
    """The help of the main command, or of the command that `words` name, without colors."""
    return re.sub(r"\x1b\[[0-9;]*m", "", succeed(*words, "--help"))


def parse_help(text: str) -> Help:
    """The commands, arguments and options in the boxes of a page of help."""
    entries: dict[str, list[list[str]]] = {"Commands": [], "Arguments": [], "Options": []}
    for box, cells in _entries(text):
        entries.setdefault(box, []).append(cells)
    options = {}
    for cells in entries["Options"]:
        flags = list(itertools.takewhile(lambda cell: cell.startswith("-"), cells))
        default = re.search(r"\[default:(.*?)\]", "".join("".join(cells).split()))
        options.update(dict.fromkeys(flags, default[1] if default else ""))
    return Help(
        commands=frozenset(cells[0] for cells in entries["Commands"]),
        arguments=tuple(cells[0] for cells in entries["Arguments"]),
        options=options,
    )


def _entries(text: str) -> Iterator[tuple[str, list[str]]]:
    """The entries of every box: its title, and the cells of all of the entry's lines."""
    box, cells = "", list[str]()
    for line in text.splitlines():
        begins = re.match(r"╭─ (\w+) ", line)
        # An entry's first line begins with its name, after a column for the star of what is required.
        names = re.match(r"│ (?:[* ] {2,4})?(?=[^\s│])", line)
        if cells and (begins or names or line.startswith("╰")):
            yield box, cells
            cells = []
        if begins:
            box = begins[1]
        elif line.startswith("│"):
            cells += re.split(r"\s{2,}", line[names.end() if names else 1 :].strip("│ "))


def all_verbs() -> Iterator[tuple[str, ...]]:
    """The main command, every command and every subcommand, as help lists them."""
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        words = waiting.pop(0)
        yield words
        waiting += [(*words, name) for name in sorted(parse_help(help_text(words)).commands)]
