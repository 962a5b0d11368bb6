"""What pyproject.toml and the files of a release say, held against the code."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from pathways_lite import extras, version
from pathways_lite.errors import UserError
from pathways_lite.methods.selection.near_duplicates import near_duplicates
from pathways_lite.methods.selection.selectors import cluster, require_k_means

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(TEXT)["project"]
EXTRAS = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    """The packages that requirements name, in normal form."""
    return {re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def imported_packages(*, at_import: bool) -> dict[str, Path]:
    """Top-level modules that the package imports, with a file that does; `at_import`: only those outside functions."""
    imported: dict[str, Path] = {}
    for path in sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]):
        tree = ast.parse(path.read_text())
        for node in tree.body if at_import else ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [str(node.module)]
            imported |= {module.partition(".")[0]: path for module in modules}
    ours = {"pathways_lite", "pathways_kernels"}
    return {module: path for module, path in imported.items() if module not in sys.stdlib_module_names | ours}


def distributions_of(modules: dict[str, Path]) -> dict[str, Path]:
    """The packages that bring the modules, as far as they are installed, in normal form."""
    known = packages_distributions()
    return {known[name][0].lower().replace("_", "-"): path for name, path in modules.items() if name in known}


# Of these a dependency gets its own: it is the same project, and of the same version.
TOGETHER = {"pydantic-core": "pydantic", "jaxlib": "jax"}


def test_what_is_imported_is_declared() -> None:
    declared = names([*PROJECT["dependencies"], *(name for extra in EXTRAS.values() for name in extra)])
    for name, path in distributions_of(imported_packages(at_import=False)).items():
        assert TOGETHER.get(name, name) in declared, f"{path} imports {name}, which pyproject.toml does not name"


def test_extras_are_imported_inside_functions() -> None:
    core = names(PROJECT["dependencies"])
    modules = imported_packages(at_import=True)
    assert modules.pop("lm_eval").name == "harness.py", "which lm-evaluation-harness imports"
    for name, path in distributions_of(modules).items():
        assert TOGETHER.get(name, name) in core, f"{path} cannot be imported without {name}, which is an extra"


def test_upper_bounds_have_their_reason_beside_them() -> None:
    lines = TEXT.splitlines()
    for name in ("flax", "grain", "jax", "orbax-checkpoint"):
        (number,) = (i for i, line in enumerate(lines) if re.match(rf'    "{name}[>=<]', line))
        assert re.search(r",<0\.\d+\"", lines[number]), f"{name} has no upper bound"
        assert "# " in lines[number] or lines[number - 1].strip().startswith("# "), f"why {name} has one"


def test_extras_that_are_named_exist() -> None:
    places = [ROOT / "CONTRIBUTING.md", ROOT / ".ci/run", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for path in places:
        for words in re.findall(r'\bEXTRA=("[^"]+"|[\w-]+)', path.read_text()):
            assert set(words.strip('"').split()) <= set(EXTRAS), path
    sources = [path.read_text() for path in (ROOT / "src").rglob("*.py")]
    named = {extra for source in sources for extra in re.findall(r"install_command\('([\w-]+)'\)", source)}
    named |= {extra for source in sources for extra in re.findall(r'install_command\("([\w-]+)"\)', source)}
    assert {"gguf", "tpu", "selection"} <= named <= set(EXTRAS)


def test_the_sentence_about_an_extra_is_for_where_the_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert extras.install_command("gguf") == "make install EXTRA=gguf"
    monkeypatch.setattr(extras, "_MAKEFILE", Path("/nonexistent/Makefile"))
    assert extras.install_command("gguf") == 'pip install "pathways-lite[gguf]"'


def test_selection_without_its_extra_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("sklearn", "sklearn.cluster", "datasketch", "threadpoolctl"):
        monkeypatch.setitem(sys.modules, package, None)
    sentence = "an extra: make install EXTRA=selection"
    with pytest.raises(UserError, match=sentence):
        require_k_means()
    with pytest.raises(UserError, match=sentence):
        cluster([[0.0]], 1, "cosine", 0)
    with pytest.raises(UserError, match=sentence):
        near_duplicates(["a text"])


def test_the_changelog_is_of_this_version() -> None:
    sections = re.findall(r"^## \[(.*?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [name for name, _ in sections if name != "Unreleased"]
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", date) for name, date in sections if name != "Unreleased")
    assert released == sorted(released, key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    if ".dev" in version.__version__:
        assert sections[0][0] == "Unreleased"
    else:
        assert released[0] == version.__version__


def test_the_citation_can_be_read() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys(), "required"
    assert citation["license"] == PROJECT["license"]
    assert citation["type"] == "software"
    assert "version" not in citation, "src/pathways_lite/version.py alone says it"
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]
