"""Build the package and make environments for it, with uv, for tests of what users install."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pathways_lite.version import __version__

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or (str(ROOT / ".uv/bin/uv") if (ROOT / ".uv/bin/uv").exists() else None)
NEEDS_UV = pytest.mark.skipif(UV is None, reason="uv is neither on the PATH nor in .uv")
PACKAGE = f"pathways-lite=={__version__}"


def uv(*words: object, **environment: str) -> None:
    """Run uv in the repository, and fail with what it says."""
    command = [str(UV), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def make_environment(folder: Path) -> Path:
    """Make an empty environment of this Python, and return its interpreter."""
    uv("venv", folder, "--python", sys.executable)
    return folder / "bin/python"


def run_installed(command: str | Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of an environment so that it sees nothing of the repository."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run([command, *words], cwd=cwd, env=environment, capture_output=True, text=True)
