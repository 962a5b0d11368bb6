"""Recipes that come with the package: their names, what is meant by one, and how their corpora are built."""

from pathlib import Path

import pytest

from pathways_lite.errors import UserError
from pathways_lite.recipe import load_recipe
from pathways_lite.shipped_recipes import copy_recipe, corpus_command, recipe_file, shipped_paths, shipped_recipes
from pathways_lite.studies import load_study

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_of_configs_have_names() -> None:
    names = {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in (ROOT / "configs").rglob("*.py")}
    assert set(shipped_paths()) == names
    assert {"demo", "studies/ul2r", "ladders/toy"} <= names


def test_names_stand_for_files() -> None:
    assert load_recipe("demo", ["seed=3"]) == load_recipe(ROOT / "configs/demo.py", ["seed=3"])
    assert load_study("studies/ul2r") == load_study(ROOT / "configs/studies/ul2r.py")
    assert recipe_file("configs/demo.py") == ROOT / "configs/demo.py", "as the documentation names it"


def test_a_file_of_ones_own_comes_first(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("")
    assert recipe_file("demo") == Path("demo")
    assert recipe_file("growth.py") == Path("growth.py"), "a missing file is not another one"
    (tmp_path / "configs").mkdir()
    assert recipe_file("configs/demo.py") == Path("configs/demo.py"), "those are the user's"


@pytest.mark.parametrize(
    ("load", "name", "sentence"),
    [
        (load_recipe, "demmo", r"no recipe at demmo\. Did you mean 'demo'\?"),
        (load_study, "study/ul2r", r"no study at study/ul2r\. Did you mean 'studies/ul2r'\?"),
        (load_recipe, "nothing.py", "no recipe at nothing.py; .* or a name from `pathways-lite recipe list`"),
        (
            load_recipe,
            "studies/ul2r",
            "studies/ul2r is a study, not a recipe; .* study run studies/ul2r",
        ),
    ],
)
def test_unknown_names_are_told(load, name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load(name)


def test_what_they_are_is_read_without_running_them() -> None:
    shipped = {recipe.name: recipe for recipe in shipped_recipes()}
    assert shipped["demo"].defines == ("recipe",)
    assert shipped["studies/ul2r"].defines == ("study",), "its recipe() has arguments"
    assert shipped["ladders/toy"].defines == ("recipe", "study")
    assert shipped["demo"].summary == "A small PaLM on the text that comes with Python: the whole stack on 2 CPU cores."
    assert all(recipe.defines and recipe.summary for recipe in shipped.values())


def test_a_copy_loads_with_what_it_imports(tmp_path: Path) -> None:
    name = "ablations/growth_timing_rates"
    written = copy_recipe(shipped_paths()[name], tmp_path / "mine" / "rates.py")
    assert [path.name for path in written] == ["rates.py", "growth_timing.py"]
    assert load_study(tmp_path / "mine" / "rates.py") == load_study(name)
    with pytest.raises(UserError, match=r"rates\.py exists; name another file"):
        copy_recipe(shipped_paths()[name], tmp_path / "mine" / "rates.py")


def test_commands_of_corpora_are_read_from_docstrings() -> None:
    words = corpus_command(ROOT / "configs/demo.py", "corpora/python")
    assert words is not None
    assert " ".join(words) == (
        "pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03"
    )
    assert corpus_command(ROOT / "configs/demo.py", "corpora/other") is None
    folded = corpus_command(ROOT / "configs/ablations/upsampling.py", "corpora/novels_math")
    assert folded is not None
    assert "--tokenizer" in folded, "its second line belongs to it"


def test_shipped_recipes_say_how_their_corpora_are_built() -> None:
    """The large ones name corpora that everybody builds from other text."""
    for name, path in shipped_paths().items():
        if "/" not in name and not name.startswith(("palm", "llama", "ul2r_palm", "selection")):
            corpus = load_recipe(path).stages[0].data.corpus
            assert corpus_command(path, corpus) is not None, name
