"""The documentation names files, functions and links that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
REFERENCE = re.compile(r"`([\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
PATH = re.compile(r"`((?:configs|docs|kernels|src|tests|tools)/[\w./-]*\w)`")


def top_level_names(path: Path) -> set[str]:
    """Names of functions, classes and variables that the module defines."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("page", ["trace.md", "extending.md"])
def test_functions_that_a_page_names_exist(page: str) -> None:
    references = REFERENCE.findall((ROOT / "docs" / page).read_text())
    assert len(references) > 10
    for file, name in references:
        path = next((p for p in (ROOT / "src" / "pathways_lite" / file, ROOT / file) if p.is_file()), None)
        assert path is not None, f"{page} names {file}, which does not exist"
        assert name in top_level_names(path), f"{page} names {file}::{name}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text()
    for link in LINK.findall(text):
        assert (page.parent / link).exists(), f"the link {link} leads nowhere"
    for path in PATH.findall(text):
        assert (ROOT / path).exists(), f"{path} does not exist"
