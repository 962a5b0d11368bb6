"""A tiny run that the library has trained."""

from pathlib import Path

import pytest

import pathways_lite as pl
from helpers.run_helpers import compile_once, stub_slow_parts
from pathways_lite.recipe import Recipe, load_recipe


@pytest.fixture(autouse=True)
def _run_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_once(monkeypatch)
    stub_slow_parts(monkeypatch)


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    """The tiny recipe: 12 steps with dropout and a batch-size ramp, evaluations at 6, checkpoints at 4, 8 and 12."""
    return load_recipe(recipe_file)


@pytest.fixture(scope="session")
def trained(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.Trained:
    """What `pl.train` returns."""
    with pytest.MonkeyPatch.context() as patch:
        compile_once(patch)
        stub_slow_parts(patch)
        return pl.train(recipe_file, tmp_path_factory.mktemp("library") / "run", track=(), page=False)
