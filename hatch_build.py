"""What building or installing the package does beside copying Python files.

Attention for CPUs (kernels/pathways_kernels/attention/cpu.cc) is compiled. Without a C++ compiler, or where compiling
fails, the package is built without it: attention on CPUs is then plain XLA.

The recipes of `configs/` go into a wheel, so that they can be named without the repository (shipped_recipes.py).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("kernels/pathways_kernels/attention")
LIBRARY = FOLDER / "_cpu.so"
OPTIONS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-w")
LEVELS = {"avx2": ("-march=x86-64-v3",), "avx512": ("-march=x86-64-v4",)}  # -DLEVEL of cpu.cc and its instruction set


class BuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        if version != "editable":  # which reads the recipes where they are, and has the library in the source tree too
            build_data["force_include"]["configs"] = "pathways_lite/configs"
        try:
            build(Path(self.root))
        except (OSError, subprocess.CalledProcessError) as error:
            output = getattr(error, "stderr", None) or error
            self.app.display_warning(f"{FOLDER / 'cpu.cc'} was not compiled, attention on CPUs is plain XLA: {output}")
            return
        build_data["artifacts"].append(f"/{LIBRARY}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def build(root: Path) -> None:
    """Compile the library in the source tree. Raises OSError or CalledProcessError."""
    from jaxlib import __file__ as jaxlib

    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if platform.machine() != "x86_64" or sys.platform == "win32":
        raise OSError(f"it is for x86-64 processors, and not for Windows; this is {platform.platform()}")
    if compiler is None:
        raise OSError("there is no C++ compiler (c++, g++, clang++ or $CXX)")
    include = f"-I{Path(jaxlib).parent / 'include'}"
    parts = {name: (f"-DLEVEL={name}", *options) for name, options in LEVELS.items()}
    source = root / FOLDER / "cpu.cc"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    parts["handlers"] = ("-DHANDLERS", f'-DSOURCE="{digest}"', include)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        objects = [f"{folder}/{name}.o" for name in parts]
        commands = [
            [compiler, *OPTIONS, *options, "-c", str(source), "-o", out]
            for out, options in zip(objects, parts.values(), strict=True)
        ]
        list(pool.map(_run, commands))
        finished = root / LIBRARY
        partial = finished.with_suffix(".new")
        _run([compiler, "-shared", *objects, "-o", str(partial)])
        partial.replace(finished)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
