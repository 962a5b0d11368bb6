"""Executors run the nodes of a study as jobs: the interface, and an executor for processes on this machine.

A job is one `pathways-lite train` of one node.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pathways_lite.cpu_cores import usable_cores
from pathways_lite.errors import UserError, counted
from pathways_lite.run_directory import RunDirectory, StageDirectory
from pathways_lite.training.process_overhead import keep_process_overhead
from pathways_lite.training.speed import directory_on_cores


class Job(Protocol):
    """A node that is being trained."""

    def poll(self) -> int | None:
        """Return its exit status (negative: the signal that killed it), None while it runs. Does not block."""

    def stop(self) -> None:
        """Ask it to save and end. Does not block."""


class Executor(Protocol):
    """Starts jobs."""

    slots: int  # the largest number of jobs at a time

    def start(self, run: RunDirectory, output: Path) -> Job:
        """Train the node whose directory is `run`; its output is appended to the file `output`."""


def train_command(run: RunDirectory, *, samples: bool = False) -> list[str]:
    """Return the command that trains the node in `run` with this interpreter."""
    return [sys.executable, "-m", "pathways_lite", *train_arguments(run, samples=samples)]


def train_arguments(run: RunDirectory, *, samples: bool = False) -> list[str]:
    """Return the arguments of `pathways-lite` that train the node in `run`.

    A node has no page: the study's report draws what its runs show together. Text is generated where it is asked for.
    """
    without = ["--no-page", *([] if samples else ["--no-samples"])]
    return ["train", str(run.recipe_path), "--out", str(run.path), "--track", "none", *without]


# ---- processes on this machine, each on its own cores ----


def split_cores(cores: Sequence[int], jobs: int) -> list[list[int]]:
    """Split the cores into `jobs` contiguous groups, as evenly as possible. Raises UserError if there are too few."""
    if not 1 <= jobs <= len(cores):
        raise UserError(f"--jobs {jobs}: this process may use {counted(len(cores), 'core')}; use at most {len(cores)}")
    bounds = [len(cores) * i // jobs for i in range(jobs + 1)]
    return [list(cores[start:end]) for start, end in itertools.pairwise(bounds)]


@dataclass
class LocalJob:
    """A process and the cores that it uses."""

    process: subprocess.Popen[bytes]
    cores: str
    free_core_sets: list[str]  # the cores are returned to it
    stage: StageDirectory  # what it trains
    begin: float = field(default_factory=time.monotonic)

    def poll(self) -> int | None:
        status = self.process.poll()
        if status is not None and self.cores:
            if status == 0:
                self._keep_overhead(time.monotonic() - self.begin)
            self.free_core_sets.append(self.cores)
            self.cores = ""
        return status

    def _keep_overhead(self, seconds: float) -> None:
        """Keep what the process took beside what it measured itself."""
        measured = (self.stage.summary or {}).get("process_seconds")
        directory = directory_on_cores(self.cores.count(",") + 1)
        if isinstance(measured, float) and directory is not None:
            keep_process_overhead(directory, seconds - measured)

    def stop(self) -> None:
        self.process.terminate()


class LocalExecutor:
    """An executor of at most `jobs` processes, pinned to disjoint cores; they save and end if this process ends."""

    def __init__(self, jobs: int = 1, *, samples: bool = False) -> None:
        self.slots, self._samples = jobs, samples
        self._free_core_sets = [",".join(map(str, cores)) for cores in split_cores(usable_cores(), jobs)]

    def start(self, run: RunDirectory, output: Path) -> LocalJob:
        cores = self._free_core_sets.pop(0)
        wrapper = [sys.executable, "-m", "pathways_lite.studies.pinned", str(os.getpid()), cores]
        with output.open("ab") as file:
            process = subprocess.Popen(
                [*wrapper, *train_command(run, samples=self._samples)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # only the runner gets a Ctrl-C, and passes it on once
            )
        return LocalJob(process, cores, self._free_core_sets, run.stage(run.recipe().stages[-1].name))
