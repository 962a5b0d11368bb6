"""`pathways-lite --version`, and where the version is said."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import pytest

import pathways_lite
from helpers.invoke import invoke
from pathways_lite.cli import version as version_option
from pathways_lite.provenance import MAIN_PACKAGES

ROOT = Path(__file__).parents[2]


def test_version_names_packages_and_devices() -> None:
    lines = invoke("--version").output.splitlines()
    assert lines[0].startswith(f"pathways-lite {pathways_lite.__version__}, Python 3.")
    assert lines[1] == ", ".join(f"{name} {version(name)}" for name in MAIN_PACKAGES)
    assert re.fullmatch(r"attention on CPUs: (compiled|plain XLA; .*\.)", lines[2])
    assert lines[3] == f"devices: {jax.device_count()} x {jax.devices()[0].device_kind} ({jax.devices()[0].platform})"


def test_devices_that_cannot_be_used_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("the TPU is in use by process 7\nmore")

    monkeypatch.setattr(jax, "devices", fail)
    assert version_option._devices() == "none that JAX can use (the TPU is in use by process 7)"


def test_versions_are_printed_before_jax_is_imported() -> None:
    """A JAX that cannot be imported is a reason to ask for versions."""
    program = (
        "import sys; sys.modules['jax'] = None; sys.argv = ['pathways-lite', '--version']\n"
        "from pathways_lite.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith(f"pathways-lite {pathways_lite.__version__}")
    assert f"jax {version('jax')}" in done.stdout
    assert "JAX cannot be imported: " in done.stdout
    assert done.stderr == ""


def test_the_version_is_said_in_one_place() -> None:
    said = [path for path in ROOT.glob("src/**/*.py") if re.search(r"^__version__ =", path.read_text(), re.MULTILINE)]
    assert [path.name for path in said] == ["version.py"]
    assert version("pathways-lite") == pathways_lite.__version__, "make install"
