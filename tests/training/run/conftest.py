"""Whole runs of the tiny recipe; `whole_runs` is importable by the test files here."""

import sys
from pathlib import Path

import pytest

from pathways_lite.recipe import Recipe, load_recipe

sys.path.insert(0, str(Path(__file__).parent))

from whole_runs import compile_once, leave_out_what_has_tests_of_its_own, run


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_once(monkeypatch)
    leave_out_what_has_tests_of_its_own(monkeypatch)


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


@pytest.fixture(scope="session")
def uninterrupted(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others must equal."""
    path = tmp_path_factory.mktemp("run") / "uninterrupted"
    with pytest.MonkeyPatch.context() as patch:
        compile_once(patch)
        leave_out_what_has_tests_of_its_own(patch)
        assert run(load_recipe(recipe_file), path) == 0
    return path
