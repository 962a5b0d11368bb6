"""The built package, installed from a folder of wheels as users install it, and used in an empty folder.

Run by `make package`, which continuous integration does. Dependencies come from the registry, or uv's cache of it.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pathways_lite.version import __version__

ROOT = Path(__file__).parent.parent
UV = shutil.which("uv") or (str(ROOT / ".uv/bin/uv") if (ROOT / ".uv/bin/uv").exists() else None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(UV is None, reason="uv is neither on the PATH nor in .uv")]


def uv(*words: object, **environment: str) -> None:
    """Run uv in the repository, and fail with what it says."""
    command = [str(UV), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def outside(environment: dict[str, str]) -> dict[str, str]:
    """Variables for a process that shall see nothing of the repository."""
    return {name: value for name, value in environment.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("index")
    uv("build", "--out-dir", folder, "--python", sys.executable)
    return folder


@pytest.fixture(scope="module")
def installed(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The scripts of an environment in which the wheel of the folder is installed."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    uv("venv", environment, "--python", sys.executable)
    package = f"pathways-lite=={__version__}"
    uv("pip", "install", "--python", environment / "bin/python", "--find-links", index, package)
    yield environment / "bin"
    shutil.rmtree(environment)  # a gigabyte, which pytest would keep


def _wheel(index: Path) -> Path:
    (wheel,) = index.glob("*.whl")
    return wheel


def test_the_wheel_has_what_is_not_python(index: Path) -> None:
    files = set(zipfile.ZipFile(_wheel(index)).namelist())
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
    wheel = _wheel(tmp_path)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not any(file.endswith(".so") for file in zipfile.ZipFile(wheel).namelist())


def test_both_packages_come_from_the_environment(installed: Path, tmp_path: Path) -> None:
    program = "import pathways_lite, pathways_kernels; print(pathways_lite.__file__, pathways_kernels.__file__)"
    command = [installed / "python", "-c", program]
    output = subprocess.run(command, cwd=tmp_path, env=outside(dict(os.environ)), capture_output=True, text=True).stdout
    assert output.count(str(installed.parent / "lib")) == 2, output


def test_the_demo_trains_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [installed / "pathways-lite", *words]
        return subprocess.run(command, cwd=tmp_path, env=outside(dict(os.environ)), capture_output=True, text=True)

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
