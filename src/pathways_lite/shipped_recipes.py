"""The recipes and studies that come with the package, by name: `demo`, `studies/ul2r`.

They are the repository's `configs/`. An installed package has a copy of it (hatch_build.py); an editable one reads it.
"""

from __future__ import annotations

import ast
import shlex
from dataclasses import dataclass
from pathlib import Path

from pathways_lite.errors import UserError
from pathways_lite.paths import local_path

_INSTALLED = Path(__file__).with_name("configs")
_REPOSITORY = Path(__file__).parents[2] / "configs"


@dataclass(frozen=True)
class ShippedRecipe:
    """A file that comes with the package.

    name: what commands take. defines: `recipe`, `study`, or both. summary: the first line of its docstring.
    """

    name: str
    path: Path
    defines: tuple[str, ...]
    summary: str


def shipped_paths() -> dict[str, Path]:
    """Return the files by name, sorted: those of `configs/` itself first."""
    root = _INSTALLED if _INSTALLED.is_dir() else _REPOSITORY
    paths = sorted(root.rglob("*.py"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}


def shipped_recipes() -> list[ShippedRecipe]:
    """Return all of them with what they are. Their code is parsed, not run."""
    return [_describe(name, path) for name, path in shipped_paths().items()]


def recipe_file(text: str | Path) -> Path:
    """Return the file that a user means: the one at that path, or else the shipped one of that name.

    In a directory without `configs/`, `configs/demo.py` is `demo` too, as the documentation names it by its path in the
    repository. Without either, the path is returned as it is. Raises UserError as `local_path` does.
    """
    path = local_path(text)
    if path.is_absolute() or path.exists():
        return path
    name = path.as_posix()
    if path.suffix == ".py" and path.parts[0] == "configs" and not Path("configs").exists():
        name = path.relative_to("configs").with_suffix("").as_posix()
    return shipped_paths().get(name, path)


def corpus_command(file: Path, corpus: str) -> list[str] | None:
    """Return the words of the command that builds the corpus, as the file's docstring has it; None if it has none."""
    text = (ast.get_docstring(ast.parse(file.read_bytes())) or "").replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip().startswith("pathways-lite data build "):
            words = shlex.split(line, comments=True)
            if words[3] == corpus:
                return words
    return None


def copy_recipe(source: Path, target: Path) -> list[Path]:
    """Copy a file, and those beside it that it imports, and return what was written.

    Raises UserError where one of them is there already.
    """
    copies = {target: source} | {target.with_name(other.name): other for other in _imported_beside(source)}
    if taken := [path for path in copies if path.exists()]:
        raise UserError(f"{taken[0]} exists; name another file, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    for path, original in copies.items():
        path.write_bytes(original.read_bytes())
    return list(copies)


def _imported_beside(file: Path) -> list[Path]:
    """Return the files beside one that it imports, and theirs."""
    imported: dict[Path, None] = {}
    waiting = [file]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_bytes())):
            beside = file.with_name(f"{node.module}.py") if isinstance(node, ast.ImportFrom) else file
            if beside.is_file() and beside not in (file, *imported):
                imported[beside] = None
                waiting.append(beside)
    return list(imported)


def _describe(name: str, path: Path) -> ShippedRecipe:
    tree = ast.parse(path.read_bytes())
    functions = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef)}
    # A function that cannot be called without arguments only helps the other.
    callable_ones = (
        kind
        for kind in ("recipe", "study")
        if kind in functions and len(functions[kind].args) == len(functions[kind].defaults)
    )
    return ShippedRecipe(name, path, tuple(callable_ones), (ast.get_docstring(tree) or "").partition("\n")[0])
