"""A plugin's wheel is built in its own folder, installed into another, and trains from the command line."""

import ensurepip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import subprocess_environment
from helpers.plugin_installation import PACKAGE

PIP = next(iter((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")), None)


@pytest.mark.slow
def test_a_wheel_with_one_plugin_of_each_kind(recipe_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="the wheel is built by setuptools")
    if PIP is None:
        pytest.skip("this Python comes without pip")
    source = shutil.copytree(PACKAGE, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, str(PIP / "pip"), "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps"]
    wheels, target = tmp_path / "wheels", tmp_path / "target"
    run([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(wheels), str(source)], tmp_path)
    (wheel,) = wheels.iterdir()
    assert wheel.name == "demo_plugin-1.0-py3-none-any.whl"
    run([*pip, "install", *offline, "--target", str(target), str(wheel)], tmp_path)

    def command(*words: object) -> str:
        path = os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])
        return run([sys.executable, "-m", "pathways_lite", *map(str, words)], tmp_path, PYTHONPATH=path)

    changes = [
        "stages.base.optimizer=demo_sign", "stages.base.optimizer.schedule=demo_stairs", "stages.base.batch_size=2",
        "stages.base.reweighting={}", "stages.base.reweighting.rule=demo_harder_half", "stages.base.budget=2 steps",
    ]  # fmt: skip
    command("train", recipe_file, *changes, "--out", "run", "--track", "demo_lines", "--no-samples", "--no-page")
    optimizer = json.loads((tmp_path / "run" / "recipe.json").read_text())["stages"][0]["optimizer"]
    assert optimizer["plugin"].startswith("demo-plugin 1.0 (")
    assert (tmp_path / "run" / "base" / "demo_lines.jsonl").is_file()
    command("grow", "run", "grown", "--operator", "demo_repeat", "model.n_layers=3")
    command("data", "build", "store", "demo:40", "--tokenizer", "bytes")
    command("tasks", "make", "demo_double", "double", "--documents", 20, "--problems", 9)
    assert "demo-root" in command("fit", "laws")


def run(command: list[str], directory: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=directory, env=subprocess_environment() | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
