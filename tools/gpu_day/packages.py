"""Which packages a part of the day needs, which of them are missing here, and how they get here without a network."""

from __future__ import annotations

import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CUDA = ("jax-cuda13-plugin", "jax-cuda12-plugin")
JAX = ("jax", "numpy")
TRAIN_STEP = (*JAX, "flax", "optax", "pydantic")
TESTS = (*JAX, "pytest", "hypothesis")
EVERYTHING = ("pathways-lite",)  # stands for all that it depends on
# What tokamax's attention imports, without what only other parts of it do. Not in uv.lock, as nothing else needs it.
TOKAMAX = ("tokamax", "qwix", "einshape", "immutabledict", "typeguard", "jaxtyping", "wadler-lindig", "pydantic")
_TOKAMAX_VERSIONS = {"tokamax": "0.0.17", "qwix": "0.1.8", "typeguard": "2.13.3"}  # its classes are private: pinned
_ELSEWHERE = ("== 'win32'", "== 'emscripten'")  # in markers of dependencies
_DOWNLOAD = (
    "python -m pip download --no-deps --only-binary=:all: --python-version {python} --implementation cp "
    "--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d wheels"
)


def missing_packages(needs: Iterable[str]) -> list[str]:
    """Return what has to be installed for these packages, as requirements with the versions of `uv.lock`."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    locked = {package["name"]: package for package in lock["package"]}
    versions: dict[str, str] = {}
    todo = list(needs)
    while todo:
        name = todo.pop()
        package = locked.get(name, {})
        if name in versions or (name != "pathways-lite" and is_installed(name)):
            continue
        if name != "pathways-lite":
            pinned = package.get("version") or _TOKAMAX_VERSIONS.get(name)
            versions[name] = f"{name}=={pinned}" if pinned else name
        todo += [
            dependency["name"]
            for dependency in package.get("dependencies", ())
            if not any(marker in dependency.get("marker", "") for marker in _ELSEWHERE)
        ]
    return sorted(versions.values())


def cuda_is_installed() -> bool:
    return any(map(is_installed, CUDA))


def is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def sentence(missing: Mapping[str, Iterable[str]]) -> str | None:
    """Say in one sentence what is missing for which parts, and how to bring it; None if nothing is.

    `missing`: requirements by part.
    """
    parts = {part: list(names) for part, names in missing.items() if names}
    if not parts:
        return None
    requirements = sorted({name for names in parts.values() for name in names})
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = "; ".join(f"{part} needs {', '.join(map(bare_name, names))}" for part, names in parts.items())
    return (
        f"missing here: {wanted}; with a network, pip install them, without one run elsewhere "
        f"`{_DOWNLOAD.format(python=python)} {' '.join(requirements)}`, bring the folder and add --wheels wheels"
    )


def bare_name(requirement: str) -> str:
    return requirement.partition("==")[0]


def describe_checkout(site: Path) -> None:
    """Write this package's name and version where Python looks for them, unless it is installed: runs record them."""
    if is_installed("pathways-lite"):
        return
    number = runpy.run_path(str(ROOT / "src" / "pathways_lite" / "version.py"))["__version__"]
    folder = site / f"pathways_lite-{number}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pathways-lite\nVersion: {number}\n")


def install_wheels(wheels: Path, site: Path) -> None:
    """Install all wheels of a folder into the folder `site`, without a network. Raises SystemExit if that fails."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise SystemExit(f"error: {wheels} has no wheels (*.whl)")
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(site)]
    if subprocess.run([sys.executable, "-m", "pip", "install", *options, *files]).returncode:
        raise SystemExit(f"error: pip could not install the wheels of {wheels}; it says why above")
