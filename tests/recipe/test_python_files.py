"""Recipes in Python that import modules beside them; mistakes in them are sentences with file and line."""

import sys
from pathlib import Path

import pytest

from pathways_lite.errors import UserError
from pathways_lite.recipe import load_recipe

SHARED = """
from pathways_lite.recipe import *

def make(name):
    model = Model(d_model={width}, n_layers=1, n_heads=1, head_dim=8, d_ff=16, vocab_size=257)
    data = Data(corpus="x", seq_len=8)
    return Recipe(name=name, stages=(Stage(model=model, data=data, optimizer=AdamW(), batch_size=2, budget="1 steps"),))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, width in (("one", 8), ("two", 16)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shared_parts.py").write_text(SHARED.format(width=width))
        (tmp_path / name / "mine.py").write_text(
            f"from shared_parts import make\n\n\ndef recipe():\n    return make({name!r})\n"
        )
    return tmp_path


def test_a_recipe_imports_the_module_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, modules = list(sys.path), set(sys.modules)
    assert load_recipe(folder / "one" / "mine.py").name == "one"
    monkeypatch.chdir(folder / "one")
    assert load_recipe("mine.py").stages[0].model.d_model == 8
    monkeypatch.chdir(folder / "two")
    assert load_recipe("../one/mine.py").stages[0].model.d_model == 8
    assert sys.path == path
    assert not {name for name in set(sys.modules) - modules if name.startswith("shared_parts")}


def test_neighbors_of_one_name_are_not_confused(folder: Path) -> None:
    widths = [load_recipe(folder / name / "mine.py").stages[0].model.d_model for name in ("one", "two", "one")]
    assert widths == [8, 16, 8]


def test_packages_and_late_imports_work(folder: Path) -> None:
    (folder / "one" / "parts").mkdir()
    (folder / "one" / "parts" / "__init__.py").write_text("from .deep import make\n")
    (folder / "one" / "parts" / "deep.py").write_text(SHARED.format(width=24))
    (folder / "one" / "late.py").write_text("def recipe():\n    from parts import make\n    return make('late')\n")
    assert load_recipe(folder / "one" / "late.py").stages[0].model.d_model == 24


def test_the_packages_own_modules_stay_loaded(tmp_path: Path) -> None:
    """A recipe at the root of a checkout does not make the stack be imported twice."""
    from pathways_lite.recipe import Recipe

    (tmp_path / "mine.py").write_text(SHARED.format(width=8) + "\ndef recipe():\n    return make('a')\n")
    assert type(load_recipe(tmp_path / "mine.py")) is Recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module_here\n", r"mine\.py:1: No module named 'no_such_module_here'; put that module beside"),
        ("x = 1\ny = x / 0\n", r"mine\.py:2: ZeroDivisionError: division by zero"),
        ("def recipe():\n    return undefined\n", r"mine\.py:2: NameError"),
        ("from broken import x\n", r"broken\.py:2: "),
        ("open('/no/such/file')\n", r"mine\.py:1: FileNotFoundError"),
        ("def recipe(:\n", r"mine\.py:1: "),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(text: str, message: str, folder: Path) -> None:
    (folder / "one" / "broken.py").write_text("\nx = = 1\n")
    (folder / "one" / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe(folder / "one" / "mine.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def recipe():\n    1\n", r"recipe\(\) returned NoneType, not a Recipe; is `return` missing at its end\?"),
        ("def study():\n    1\n", "is a study, not a recipe; train it by: pathways-lite study run"),
    ],
)
def test_a_file_that_gives_no_recipe_says_why(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "mine.py")
    with pytest.raises(UserError, match=r"no recipe at .*min\.py\. Did you mean '.*mine\.py'\?"):
        load_recipe(tmp_path / "min.py")
