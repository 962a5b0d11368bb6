"""Text that every Python installation carries: its standard library's sources, their docstrings, pydoc's topics.

Two domains: `code` (sources without docstrings, comments kept) and `prose` (docstrings and topics). A file's
code and docstrings are one group, so that neither is in training when the other is held out. The sources of the
package `test` are code as they are: few of their docstrings are prose, and parsing takes longer than all the rest.
"""

from __future__ import annotations

import ast
import functools
import io
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from itertools import accumulate
from pathlib import Path

from pathways_lite.data.documents import Document, InputChunk, Skipped, check_text

_TOPICS = "pydoc_data/topics.py"
_TESTS = "test"
# Installed packages are not the standard library; a cache holds no sources.
_OTHER = frozenset({"site-packages", "dist-packages", "__pycache__"})
# Statements without statements in them; the others' bodies are lists of statements.
_SIMPLE = (ast.Expr, ast.Assign, ast.Return, ast.AugAssign, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.Pass)


@functools.cache  # a build asks three times, and there are thousands of files
def library_files() -> tuple[tuple[Path, str], ...]:
    """Sources of the standard library with their names relative to it, sorted by name.

    Of the package `test`, which would be two thirds of the text, only every second file. How much there is depends
    on the installation: some leave out `test`, `tkinter` or `idlelib`.
    """
    root = Path(sysconfig.get_path("stdlib"))
    names: list[Path] = []
    for directory, folders, files in root.walk():
        folders[:] = [folder for folder in folders if folder not in _OTHER]
        here = directory.relative_to(root)
        names += [here / file for file in files if file.endswith(".py")]
    names.sort()
    left_out = frozenset([name for name in names if name.parts[0] == _TESTS][1::2])
    return tuple((root / name, name.as_posix()) for name in names if name not in left_out)


def python_chunks() -> Iterator[InputChunk]:
    """One piece per source file."""
    for path, name in library_files():
        size = path.stat().st_size
        yield Topics(path, size) if name == _TOPICS else SourceFile(path, name, size)


@dataclass(frozen=True)
class SourceFile:
    """One source of the standard library: up to two documents."""

    path: Path
    name: str
    size: int

    @property
    def input_bytes(self) -> int:
        return self.size

    @property
    def _is_test(self) -> bool:
        return self.name.startswith(f"{_TESTS}/")

    def read(self) -> Iterator[Document | Skipped]:
        where = f"python:{self.name}"
        try:
            content = self.path.read_bytes()
            encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
            source = io.TextIOWrapper(io.BytesIO(content), encoding).read()
            code, docstrings = (source, []) if self._is_test else split_docstrings(source)
        except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError) as error:
            # The tests of the standard library hold such files on purpose.
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            line = f" line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            yield Skipped(f"{where}{line}: no source of Python {version} ({reason})")
            return
        except OSError as error:
            yield Skipped(f"{where}: cannot be read ({error.strerror})")
            return
        for domain, text in (("code", code), ("prose", "\n\n".join(docstrings))):
            if text.strip():  # an empty __init__.py is nothing to report
                yield check_text(text, where) or Document(f"{domain}:{self.name}", domain, self.name, text)


@dataclass(frozen=True)
class Topics:
    """The texts of `help("topic")`: one document each. The file is one big literal, so it is not code as well."""

    path: Path
    size: int

    @property
    def input_bytes(self) -> int:
        return self.size

    def read(self) -> Iterator[Document | Skipped]:
        from pydoc_data.topics import topics

        for topic, text in sorted(topics.items()):
            name = f"{_TOPICS}:{topic}"
            yield check_text(text, name) or Document(f"prose:{name}", "prose", name, text)


def split_docstrings(source: str) -> tuple[str, list[str]]:
    """`source` without the docstrings of modules, classes and functions, and these, cleaned, in order.

    A line that a docstring had for itself goes with it. Raises SyntaxError or ValueError where `source` is no Python.
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old sources
        tree = ast.parse(source)
    nodes: list[ast.Constant] = []
    _find_docstrings(tree, nodes)
    content = source.encode()  # ast counts columns in bytes of UTF-8
    lines = content.splitlines(keepends=True)
    offsets = list(accumulate(map(len, lines), initial=0))
    kept, at = [], 0
    for node in nodes:
        start, stop = _extent(node, content, offsets)
        kept.append(content[at:start])
        at = stop
    kept.append(content[at:])
    docstrings = [cleandoc(str(node.value)).strip() for node in nodes]
    return b"".join(kept).decode(), [text for text in docstrings if text]


def _find_docstrings(node: ast.AST, found: list[ast.Constant]) -> None:
    """Collect the docstring of `node` and those of everything defined in it, in the order of the source."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        match node.body:
            case [ast.Expr(value=ast.Constant(value=str()) as docstring), *_]:
                found.append(docstring)
    # Only statements hold definitions: to walk the expressions too would take several times as long.
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, field, ()):
            if not isinstance(child, _SIMPLE):
                _find_docstrings(child, found)


def _extent(node: ast.Constant, content: bytes, offsets: list[int]) -> tuple[int, int]:
    """Where a docstring begins and ends in `content`: with the whole lines where nothing else stands on them."""
    last = node.end_lineno or node.lineno
    line, after = offsets[node.lineno - 1], offsets[last]
    start, stop = line + node.col_offset, offsets[last - 1] + (node.end_col_offset or 0)
    alone = not content[line:start].strip() and not content[stop:after].strip()
    return (line, after) if alone else (start, stop)
