"""The images: what a linter says of the Dockerfile, and that what it copies is enough to install the package."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from helpers.built_package import NEEDS_UV, UV

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
HADOLINT = Path(sys.executable).with_name("hadolint")
STAGES = {name: base for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is installed on Linux on x86-64 only")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([HADOLINT, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_there_is_an_image_for_each_kind_of_device() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for device in ("cpu", "tpu", "cuda13"):
        assert STAGES[device] == "runtime"
        assert f"COPY --from=build-{device} /opt/pathways_lite /opt/pathways_lite" in DOCKERFILE
        assert f"docker build --target {device} " in DOCKERFILE
        assert device == "cpu" or (device in extras and f"--extra {device}\n" in DOCKERFILE)
    assert STAGES["build"] == STAGES["runtime"], "the environment's Python is where it was built"
    assert list(STAGES)[-1] == "cpu", "the default"


def test_uv_is_the_makefiles() -> None:
    (version,) = re.findall(r"ghcr\.io/astral-sh/uv:(\S+)", DOCKERFILE)
    assert f"UV_VERSION := {version}\n" in (ROOT / "Makefile").read_text()


@pytest.mark.slow
@NEEDS_UV
def test_what_is_copied_is_enough_to_install(tmp_path: Path) -> None:
    """Run the build stage's last command on what .dockerignore lets through."""
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        source = ROOT / line.removeprefix("!")
        if line.startswith("!") and source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "_cpu.so")
            shutil.copytree(source, tmp_path / "source" / source.name, ignore=ignored)
        elif line.startswith("!"):
            (tmp_path / "source").mkdir(exist_ok=True)
            shutil.copy(source, tmp_path / "source")
    (command,) = re.findall(r"AS build-cpu\nRUN uv (.*)$", DOCKERFILE, re.MULTILINE)
    words = [word for word in command.split() if word != "--no-cache"]
    environment = os.environ | {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "opt"), "UV_PYTHON": sys.executable}
    done = subprocess.run([str(UV), *words], cwd=tmp_path / "source", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "source")
    done = subprocess.run([tmp_path / "opt/bin/pathways-lite", "--version"], capture_output=True, text=True, check=True)
    assert "devices: " in done.stdout
