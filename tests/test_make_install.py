"""`make install` where uv or Python cannot be used: another uv, or one sentence."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, uv: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `make install` in a copy of the project's files, with a script `uv` first on the PATH."""
    sources = ("kernels/pathways_kernels/attention/cpu.cc", "src/pathways_lite/version.py")
    for name in ("Makefile", "pyproject.toml", "uv.lock", "hatch_build.py", *sources):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "bin").mkdir()
    (folder / "bin" / "uv").write_text(f"#!/bin/sh\n{uv}\n")
    (folder / "bin" / "uv").chmod(0o755)
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    command = ["make", *arguments, "install"]
    return subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)


def test_a_shim_of_uv_that_does_not_run_is_not_used(tmp_path: Path) -> None:
    done = make(tmp_path, "echo 'pyenv: uv: command not found' >&2; exit 127", "-n")
    assert done.returncode == 0, done.stderr
    assert ".uv/bin/uv sync" in done.stdout
    assert 'pip install --quiet "uv==' in done.stdout


def test_neither_uv_nor_python_is_one_sentence(tmp_path: Path) -> None:
    done = make(tmp_path, "exit 127", "PYTHON=/nonexistent/python")
    assert done.returncode == 2
    assert "error: uv does not run here, and /nonexistent/python cannot make an environment" in done.stderr


def test_a_missing_python_is_one_sentence(tmp_path: Path) -> None:
    done = make(tmp_path, '[ "$1" = --version ]')
    assert done.returncode == 2
    assert "error: there is no Python 3.12 or newer here" in done.stderr
