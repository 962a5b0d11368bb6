"""The package of `plugin_package`, installed for this process by its metadata; test_wheel.py builds and installs it."""

import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pathways_lite import plugins

PACKAGE = Path(__file__).parent / "plugin_package"


def forget() -> None:
    """Let the next look-up find what is installed then."""
    plugins.plugins.cache_clear()
    plugins._package_digest.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "demo_plugin"]:
        del sys.modules[name]


def write_installation(target: Path, version: str = "1.0", name: str = "demo-plugin") -> None:
    """Write the package and its metadata as an installer does."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    shutil.copytree(PACKAGE / "demo_plugin", target / "demo_plugin", dirs_exist_ok=True)
    metadata = target / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{entry} = {place}" for entry, place in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """A function that installs a version of the package in the place of the one before."""
    paths = list(sys.path)

    def put(version: str = "1.0") -> Path:
        target = tmp_path / f"installed-{version}"
        write_installation(target, version)
        monkeypatch.setattr(sys, "path", [str(target), *paths])
        forget()
        return target

    yield put
    monkeypatch.undo()
    forget()


@pytest.fixture
def installed(install: Callable[..., Path]) -> Path:
    """The directory in which version 1.0 is installed."""
    return install()
