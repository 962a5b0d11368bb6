"""The built package, installed from a folder of wheels as users install it, and used in an empty folder.

Run by `make package`, which continuous integration does. Dependencies come from the registry, or uv's cache of it.
"""

import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.built_package import NEEDS_UV, PACKAGE, ROOT, make_environment, run_installed, uv

pytestmark = [pytest.mark.slow, NEEDS_UV]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("index")
    uv("build", "--out-dir", folder, "--python", sys.executable)
    return folder


@pytest.fixture(scope="module")
def installed(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The scripts of an environment in which the wheel of the folder is installed."""
    python = make_environment(tmp_path_factory.mktemp("environment") / "venv")
    uv("pip", "install", "--python", python, "--find-links", index, PACKAGE)
    yield python.parent
    shutil.rmtree(python.parents[1])  # a gigabyte, which pytest would keep


def wheel_in(folder: Path) -> Path:
    """The one wheel of a folder."""
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_has_what_is_not_python(index: Path) -> None:
    files = set(zipfile.ZipFile(wheel_in(index)).namelist())
    configs = {f"pathways_lite/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    assert configs <= files
    assert {"pathways_lite/py.typed", "pathways_kernels/py.typed", "pathways_lite/studies/jobset.yaml"} <= files
    assert "pathways_kernels/attention/cpu.cc" in files
    assert not any("__pycache__" in file or file.startswith("tests") for file in files)
    (archive,) = index.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "configs/demo.py", "tests/conftest.py", "uv.lock"} <= names


def test_a_wheel_is_built_without_a_compiler(tmp_path: Path) -> None:
    uv("build", "--wheel", "--out-dir", tmp_path, "--python", sys.executable, CXX="/nonexistent/c++")
    assert wheel_in(tmp_path).name.endswith("-py3-none-any.whl")
    assert not any(file.endswith(".so") for file in zipfile.ZipFile(wheel_in(tmp_path)).namelist())


def test_both_packages_come_from_the_environment(installed: Path, tmp_path: Path) -> None:
    program = "import pathways_lite, pathways_kernels; print(pathways_lite.__file__, pathways_kernels.__file__)"
    output = run_installed(installed / "python", "-c", program, cwd=tmp_path).stdout
    assert output.count(str(installed.parent / "lib")) == 2, output


def test_the_demo_trains_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    def run(*words: str):
        return run_installed(installed / "pathways-lite", *words, cwd=tmp_path)

    assert "attention on CPUs: compiled" in run("--version").stdout or shutil.which("c++") is None
    assert "studies/ul2r" in run("recipe", "list").stdout
    fast = ["stages.base.budget=2 steps", "stages.base.evaluation.tokens=2000", "--no-samples"]
    training = run("train", "demo", *fast)
    assert training.returncode == 0, training.stderr
    assert "corpora/python is not there yet, and is built first" in training.stderr
    assert (tmp_path / "runs/demo/report.html").is_file()
    evaluation = run("evaluate", "runs/demo", "--tokens", "2000", "--json")
    assert "bits_per_byte" in evaluation.stdout, evaluation.stderr
    selection = run("data", "select", "near-duplicates", "corpora/python", "distinct.jsonl")
    assert selection.returncode == 2
    assert selection.stderr.endswith('an extra: pip install "pathways-lite[selection]"\n')
