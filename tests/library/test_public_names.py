"""The public names are those of docs/library.md, and the package costs nothing until one is used."""

import importlib
import inspect
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

import pathways_lite as pl
from pathways_lite import testing
from pathways_lite.deprecation import Former
from pathways_lite.lazy import attach
from pathways_lite.library.loop import Loop, Step
from pathways_lite.recipe.fields import recipe_classes

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text()


def documented(heading: str, before: str) -> set[str]:
    """Return the names after `before` in the table under a heading of the page."""
    table = re.search(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    cells = [line for line in table.splitlines() if line.startswith("| `")]
    return {name for line in cells for name in re.findall(rf"`{re.escape(before)}([\w.]+)", line)}


def attributes(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")} | set(getattr(cls, "__dataclass_fields__", ())) - {
        "_params"
    }


def test_public_names_are_the_documented_ones() -> None:
    names = documented("Names", "pl.")
    assert {name for name in names if "." not in name} == set(pl.__all__)
    assert {name.partition(".")[2] for name in names if name.startswith("data.")} == set(pl.data.__all__)
    assert documented("Trained", ".") == attributes(pl.Trained)
    assert documented("Loop", ".") == attributes(Loop)
    assert documented("Loop", "step.") == set(Step.__annotations__)


@pytest.mark.parametrize("module", [pl, pl.data, pl.recipe, testing], ids=lambda module: module.__name__)
def test_every_public_name_is_there(module: ModuleType) -> None:
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)


def test_classes_of_recipes_are_public() -> None:
    missing = {cls.__name__ for cls in recipe_classes()} - set(pl.recipe.__all__)
    assert not missing


@pytest.mark.parametrize("name", ["train", "load", "from_hf", "fit", "study", "Loop", "Trained"])
def test_public_functions_say_what_they_do(name: str) -> None:
    documentation = inspect.getdoc(getattr(pl, name))
    assert documentation
    assert documentation.splitlines()[0].endswith(".")


def test_the_package_is_imported_without_jax() -> None:
    script = (
        "import sys, pathways_lite as pl; dir(pl); pl.recipe.AdamW; pl.data.build_corpus; print('jax' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pl.nothing
    with pytest.raises(ImportError):
        importlib.import_module("pathways_lite.nothing")


def test_a_former_name_works_with_a_warning_for_one_minor_version(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("example")
    package.__version__ = "0.2.3"
    monkeypatch.setitem(sys.modules, "example", package)
    package.__getattr__, package.__dir__ = attach(
        "example", {"dumps": "json:dumps"}, {"to_json": Former("dumps", since="0.2")}
    )
    with pytest.warns(
        DeprecationWarning, match=r"^example.to_json is dumps since version 0.2, and version 0.3 refuses"
    ) as said:
        assert package.to_json([1]) == "[1]"
    assert said[0].filename == __file__
    with warnings.catch_warnings(action="error"):
        assert package.dumps([1]) == "[1]"
    assert "to_json" not in dir(package)
    assert "dumps" in dir(package)
    for later in ("0.3.0rc1", "1.0"):
        package.__version__ = later
        with pytest.raises(AttributeError, match=r"no example\.to_json since version 0\.3; write dumps instead"):
            _ = package.to_json
