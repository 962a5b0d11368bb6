"""Ask how long a node takes on this machine: what was measured before, or `train --dry-run` in a process of its own.

The process keeps what it measures for all later plans and runs (`training.speed`). It runs on the cores that a node
gets. When it ends it gives accelerators back, which a planning process that had started JAX itself would keep from the
nodes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pathways_lite.cpu_cores import usable_cores
from pathways_lite.recipe import write_recipe
from pathways_lite.studies.executor import split_cores
from pathways_lite.studies.study import Node
from pathways_lite.training.ending import estimate_ending
from pathways_lite.training.speed import Speed, directory_on_cores, parse_speed, speed_on_cores
from pathways_lite.training.stage import StageSpec

_TIMEOUT = 600.0  # seconds


class KnownSpeeds:
    """Finds the speeds that runs and plans on this machine have measured, on the cores that a node gets.

    Failing that, on the cores that a node gets with another number of jobs: a rough estimate, which says so.
    """

    _exactly = False

    def __init__(self, jobs: int) -> None:
        self._cores = split_cores(usable_cores(), jobs)[0]

    def __call__(self, node: Node) -> tuple[Speed, str] | None:
        """Return the node's speed and where it comes from; None where its shape has not been measured."""
        if (known := self._known(node, len(self._cores))) is not None or self._exactly:
            return known
        for jobs in range(1, len(usable_cores()) + 1):
            cores = len(split_cores(usable_cores(), jobs)[0])
            if (known := self._known(node, cores)) is not None:
                return known[0], f"{known[1]} with --jobs {jobs}"
        return None

    def _known(self, node: Node, cores: int) -> tuple[Speed, str] | None:
        """Return the speed on that many cores; where only steps were measured, with an estimate of a run's end."""
        if (known := speed_on_cores(node.stage, cores)) is None or not known[0].calibrated:
            return known
        speed, source = known
        spec = StageSpec(node.recipe, len(node.recipe.stages) - 1)
        ending = estimate_ending(spec, probe=False, directory=directory_on_cores(cores))
        left_out = f", at least: not measured here yet: {ending.unknown}" if ending.unknown else ""
        return replace(speed, fixed=speed.fixed + ending.total), f"{source}{left_out}"


class SpeedProbe(KnownSpeeds):
    """Finds speeds also by a few steps, as long as `seconds` are left for it; then the caller's guesses remain."""

    _exactly = True  # rather than what another number of jobs has measured, a measurement

    def __init__(self, jobs: int, seconds: float = 120.0) -> None:
        super().__init__(jobs)
        self._deadline = time.monotonic() + seconds

    def __call__(self, node: Node) -> tuple[Speed, str] | None:
        """Return the node's speed and where it comes from; None where it could not be found out."""
        if (known := super().__call__(node)) is not None:
            return known
        if time.monotonic() > self._deadline:
            return None
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "recipe.json")
            write_recipe(node.recipe, path)
            cores = ",".join(map(str, self._cores))
            wrapper = [sys.executable, "-m", "pathways_lite.studies.pinned", str(os.getpid()), cores]
            command = [sys.executable, "-m", "pathways_lite", "train", str(path), "--dry-run", "--json"]
            try:
                done = subprocess.run(
                    [*wrapper, *command], capture_output=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT, check=True
                )
                estimate = json.loads(done.stdout)[-1]["estimate"]
                left_out = estimate.get("unknown")
            except (subprocess.SubprocessError, ValueError, KeyError, IndexError):
                return None  # training will say what is wrong
        speed = parse_speed(estimate["speed"])
        more = f", at least: not measured here yet: {left_out}" if left_out else ""
        return None if speed is None else (speed, f"{estimate['source']}{more}")
