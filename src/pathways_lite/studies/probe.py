"""Ask how long nodes take on this machine: what was measured before, or a few steps in a process of their own.

The process (`studies.calibrate`) keeps what it measures for all later plans and runs (`training.speed`). It runs on the
cores that a node gets. When it ends it gives accelerators back, which a planning process that had started JAX itself
would keep from the nodes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pathways_lite.cpu_cores import usable_cores
from pathways_lite.host_memory import runs_on_cpu_only
from pathways_lite.recipe import write_recipe
from pathways_lite.studies.executor import split_cores
from pathways_lite.studies.plan import Surroundings
from pathways_lite.studies.study import Node
from pathways_lite.tracking.peak import missing_measurements
from pathways_lite.training.ending import estimate_ending
from pathways_lite.training.process_overhead import keep_process_overhead, process_overhead
from pathways_lite.training.speed import (
    Speed,
    directory_on_cores,
    is_compiled_on_cores,
    parse_speed,
    speed_on_cores,
    stage_shape,
)
from pathways_lite.training.stage import StageSpec

_TIMEOUT = 600.0  # seconds


class KnownSpeeds:
    """Finds the speeds that runs and plans on this machine have measured, on the cores that a node gets.

    Failing that, on the cores that a node gets with another number of jobs: a rough estimate, which says so.
    `samples`: the nodes generate text at their end.
    """

    def __init__(self, jobs: int, *, samples: bool = False) -> None:
        self._cores, self._samples = split_cores(usable_cores(), jobs)[0], samples

    def speeds(self, nodes: Sequence[Node]) -> dict[str, tuple[Speed, str]]:
        """Return the known speeds of nodes of different shapes and where they come from, by shape."""
        known = {stage_shape(node.stage): self._known(node) or self._with_other_jobs(node) for node in nodes}
        return {shape: found for shape, found in known.items() if found is not None}

    def surroundings(self, spec: StageSpec) -> Surroundings:
        """Return what the node's process takes beside what its speed says."""
        count = len(self._cores)
        directory = directory_on_cores(count)
        if directory is None:  # nothing was measured on so many cores, whose speed is another's too
            return Surroundings()
        return Surroundings(
            process_overhead(directory),
            estimate_ending(spec, probe=False, samples=self._samples, pages=False, directory=directory),
            is_compiled_on_cores(spec.stage, count),
            missing_measurements(spec.stage.model.dtype, count) if runs_on_cpu_only() else 0,
        )

    def _known(self, node: Node) -> tuple[Speed, str] | None:
        return speed_on_cores(node.stage, len(self._cores))

    def _with_other_jobs(self, node: Node) -> tuple[Speed, str] | None:
        for jobs in range(1, len(usable_cores()) + 1):
            cores = len(split_cores(usable_cores(), jobs)[0])
            if (known := speed_on_cores(node.stage, cores)) is not None:
                return known[0], f"{known[1]} with --jobs {jobs}"
        return None


class SpeedProbe(KnownSpeeds):
    """Finds speeds also by a few steps, for about `seconds`; then the caller's guesses remain."""

    def __init__(self, jobs: int, *, samples: bool = False, seconds: float = 120.0) -> None:
        super().__init__(jobs, samples=samples)
        self._seconds = seconds

    def speeds(self, nodes: Sequence[Node]) -> dict[str, tuple[Speed, str]]:
        """Return the speeds of nodes of different shapes and their sources, by shape, as far as there is time."""
        known = {stage_shape(node.stage): self._known(node) for node in nodes}
        found = {shape: speed for shape, speed in known.items() if speed is not None}
        unknown = [node for node in nodes if stage_shape(node.stage) not in found]
        if unknown and self._seconds > 0:
            for row in self._calibrate(unknown):
                if (speed := parse_speed(row["speed"])) is not None:
                    found[row["shape"]] = speed, row["source"]
        return found

    def _calibrate(self, nodes: Sequence[Node]) -> Iterator[dict[str, Any]]:
        """Yield what the process printed, which is less where it failed: training will say what is wrong."""
        with tempfile.TemporaryDirectory() as directory:
            paths = [Path(directory, f"{number}.json") for number in range(len(nodes))]
            for node, path in zip(nodes, paths, strict=True):
                write_recipe(node.recipe, path)
            cores = ",".join(map(str, self._cores))
            wrapper = [sys.executable, "-m", "pathways_lite.studies.pinned", str(os.getpid()), cores]
            command = [sys.executable, "-m", "pathways_lite.studies.calibrate", str(self._seconds), *map(str, paths)]
            begin = time.monotonic()
            try:
                done = subprocess.run(
                    [*wrapper, *command], capture_output=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT, check=False
                )
                rows = [json.loads(line) for line in done.stdout.splitlines()]
            except (subprocess.SubprocessError, ValueError):
                return
            if done.returncode == 0 and (kept := directory_on_cores(len(self._cores))) is not None:
                measured = sum(row["seconds"] for row in rows)
                keep_process_overhead(kept, time.monotonic() - begin - measured)
            yield from (row for row in rows if "speed" in row)
