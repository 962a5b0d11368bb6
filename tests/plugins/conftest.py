"""The demo package, installed for this process by its metadata; test_wheel.py builds and installs it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.plugin_installation import forget, write_installation


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
