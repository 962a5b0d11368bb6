"""Ask how long a node takes on this machine: `train --dry-run` of its recipe, in a process of its own.

The process runs on the cores that a node gets. When it ends it gives accelerators back, which a planning process that
had started JAX itself would keep from the nodes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pathways_lite.cpu_cores import usable_cores
from pathways_lite.recipe import write_recipe
from pathways_lite.studies.executor import split_cores
from pathways_lite.studies.study import Node
from pathways_lite.training.speed import Speed, parse_speed

_TIMEOUT = 600.0  # seconds


class SpeedProbe:
    """Finds the speeds of nodes as long as `seconds` are left for it; then only the caller's guesses remain."""

    def __init__(self, jobs: int, seconds: float = 120.0) -> None:
        self._cores = ",".join(map(str, split_cores(usable_cores(), jobs)[0]))
        self._deadline = time.monotonic() + seconds

    def __call__(self, node: Node) -> tuple[Speed, str] | None:
        """Return the node's speed and where it comes from; None where it could not be found out."""
        if time.monotonic() > self._deadline:
            return None
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "recipe.json")
            write_recipe(node.recipe, path)
            wrapper = [sys.executable, "-m", "pathways_lite.studies.pinned", str(os.getpid()), self._cores]
            command = [sys.executable, "-m", "pathways_lite", "train", str(path), "--dry-run", "--json"]
            try:
                done = subprocess.run(
                    [*wrapper, *command], capture_output=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT, check=True
                )
                estimate = json.loads(done.stdout)[-1]["estimate"]
            except (subprocess.SubprocessError, ValueError, KeyError, IndexError):
                return None  # training will say what is wrong
        speed = parse_speed(estimate["speed"])
        return None if speed is None else (speed, str(estimate["source"]))
