"""Read the text that every Python installation has: standard library sources, their docstrings, pydoc's topics.

This is the source `python:`. Unless it is given one, it has two domains: `code` (sources without docstrings, with
comments) and `prose` (docstrings and topics). A file's code and docstrings are one group, so that neither is in
training when the other is held out. Sources of the package `test` are code with their docstrings: few of these are
prose, and parsing them would take longer than everything else.
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
_EXCLUDED = frozenset({"site-packages", "dist-packages", "__pycache__"})
# Statements that contain no statements; the bodies of all others are lists of statements.
_SIMPLE = (ast.Expr, ast.Assign, ast.Return, ast.AugAssign, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.Pass)


@functools.cache  # a build needs it three times, and there are thousands of files
def library_files() -> tuple[tuple[Path, str], ...]:
    """Return paths of the standard library's sources and their names relative to it, sorted by name.

    Only every second file of the package `test` is included, which would otherwise be two thirds of the text. The
    amount depends on the installation: some leave out `test`, `tkinter` or `idlelib`.
    """
    root = Path(sysconfig.get_path("stdlib"))
    names: list[Path] = []
    for directory, folders, files in root.walk():
        folders[:] = [folder for folder in folders if folder not in _EXCLUDED]
        package = directory.relative_to(root)
        names += [package / file for file in files if file.endswith(".py")]
    names.sort()
    left_out = frozenset([name for name in names if name.parts[0] == _TESTS][1::2])
    return tuple((root / name, name.as_posix()) for name in names if name not in left_out)


def python_chunks(domain: str | None = None) -> Iterator[InputChunk]:
    """Yield one chunk per source file; `domain`: of all documents, instead of `code` and `prose`."""
    for path, name in library_files():
        size = path.stat().st_size
        yield Topics(path, size, domain) if name == _TOPICS else SourceFile(path, name, size, domain)


@dataclass(frozen=True)
class SourceFile:
    """A source file of the standard library: up to two documents, its code and its docstrings."""

    path: Path
    name: str
    size: int
    domain: str | None = None  # of both

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
            # The tests of the standard library contain such files on purpose.
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            line = f" line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            yield Skipped(f"{where}{line}: not valid Python {version} ({reason})")
            return
        except OSError as error:
            yield Skipped(f"{where}: cannot be read ({error.strerror})")
            return
        for kind, text in (("code", code), ("prose", "\n\n".join(docstrings))):
            if text.strip():  # an empty __init__.py is not worth reporting
                document = Document(f"{kind}:{self.name}", self.domain or kind, self.name, text)
                yield check_text(text, where) or document


@dataclass(frozen=True)
class Topics:
    """The texts of `help("topic")`, one document each. The file is one big literal, so it is not used as code."""

    path: Path
    size: int
    domain: str | None = None  # instead of `prose`

    @property
    def input_bytes(self) -> int:
        return self.size

    def read(self) -> Iterator[Document | Skipped]:
        from pydoc_data.topics import topics

        for topic, text in sorted(topics.items()):
            name = f"{_TOPICS}:{topic}"
            yield check_text(text, name) or Document(f"prose:{name}", self.domain or "prose", name, text)


def split_docstrings(source: str) -> tuple[str, list[str]]:
    """Separate the docstrings of modules, classes and functions from the code.

    Returns the code, without lines that held nothing but docstrings, and the cleaned docstrings in order. Raises
    SyntaxError or ValueError if `source` is not Python.
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old sources
        tree = ast.parse(source)
    nodes: list[ast.Constant] = []
    _collect_docstrings(tree, nodes)
    content = source.encode()  # ast counts columns in bytes of UTF-8
    lines = content.splitlines(keepends=True)
    offsets = list(accumulate(map(len, lines), initial=0))
    code, position = [], 0
    for node in nodes:
        start, stop = _extent(node, content, offsets)
        code.append(content[position:start])
        position = stop
    code.append(content[position:])
    docstrings = [cleandoc(str(node.value)).strip() for node in nodes]
    return b"".join(code).decode(), [text for text in docstrings if text]


def _collect_docstrings(node: ast.AST, docstrings: list[ast.Constant]) -> None:
    """Append the docstring of `node` and those of everything defined in it, in the order of the source."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        match node.body:
            case [ast.Expr(value=ast.Constant(value=str()) as docstring), *_]:
                docstrings.append(docstring)
    # Only statements contain definitions; walking the expressions too would take several times as long.
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, field, ()):
            if not isinstance(child, _SIMPLE):
                _collect_docstrings(child, docstrings)


def _extent(node: ast.Constant, content: bytes, offsets: list[int]) -> tuple[int, int]:
    """Return where a docstring starts and stops in `content`: whole lines if there is nothing else on them."""
    last_line = node.end_lineno or node.lineno
    line_start, line_stop = offsets[node.lineno - 1], offsets[last_line]
    start, stop = line_start + node.col_offset, offsets[last_line - 1] + (node.end_col_offset or 0)
    is_alone = not content[line_start:start].strip() and not content[stop:line_stop].strip()
    return (line_start, line_stop) if is_alone else (start, stop)
