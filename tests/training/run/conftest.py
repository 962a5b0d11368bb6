"""Fixtures for whole runs of the tiny recipe."""

from pathlib import Path

import pytest

from helpers.run_helpers import compile_once, run, stub_slow_parts
from pathways_lite.recipe import Recipe, load_recipe


@pytest.fixture(autouse=True)
def _run_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_once(monkeypatch)
    stub_slow_parts(monkeypatch)


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    """The tiny recipe."""
    return load_recipe(recipe_file)


@pytest.fixture(scope="session")
def uninterrupted(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an undisturbed run, which every interrupted one must equal."""
    path = tmp_path_factory.mktemp("run") / "uninterrupted"
    with pytest.MonkeyPatch.context() as patch:
        compile_once(patch)
        stub_slow_parts(patch)
        assert run(load_recipe(recipe_file), path) == 0
    return path
