"""What the runner needs of whatever executes nodes. A job is one `pathways-lite train` of one node."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pathways_lite.cpu_cores import usable_cores
from pathways_lite.errors import UserError
from pathways_lite.run_directory import RunDirectory


class Job(Protocol):
    """One node in training."""

    def poll(self) -> int | None:
        """Its exit status (negative: the signal that killed it), None while it goes on. Returns at once."""

    def stop(self) -> None:
        """Ask it to save and end. Returns at once."""


class Executor(Protocol):
    """Starts jobs."""

    slots: int  # how many at a time

    def start(self, run: RunDirectory, output: Path) -> Job:
        """Train the node whose directory is `run`; what it says is appended to `output`."""


def train_command(run: RunDirectory) -> list[str]:
    """The command that trains the node in `run`, by this very interpreter."""
    return [sys.executable, "-m", "pathways_lite", *train_arguments(run)]


def train_arguments(run: RunDirectory) -> list[str]:
    """What follows `pathways-lite` to train the node in `run`."""
    return ["train", str(run.recipe_path), "--out", str(run.path), "--track", "none"]


# Nodes as processes on this machine, each on cores of its own.


def share_cores(cores: Sequence[int], jobs: int) -> list[list[int]]:
    """The cores in `jobs` groups of neighbours, as even as can be. Raises UserError where there are too few."""
    if not 1 <= jobs <= len(cores):
        raise UserError(f"--jobs {jobs}: this machine has {len(cores)} cores for this process; use 1 to {len(cores)}")
    bounds = [len(cores) * i // jobs for i in range(jobs + 1)]
    return [list(cores[begin:end]) for begin, end in itertools.pairwise(bounds)]


@dataclass
class LocalJob:
    """A process and the cores it holds."""

    process: subprocess.Popen[bytes]
    cores: str
    free: list[str]  # where the cores go back to

    def poll(self) -> int | None:
        status = self.process.poll()
        if status is not None and self.cores:
            self.free.append(self.cores)
            self.cores = ""
        return status

    def stop(self) -> None:
        self.process.terminate()


class LocalExecutor:
    """At most `jobs` processes at a time, pinned to disjoint cores; they end with this one, having saved."""

    def __init__(self, jobs: int = 1) -> None:
        self.slots = jobs
        self._free = [",".join(map(str, cores)) for cores in share_cores(usable_cores(), jobs)]

    def start(self, run: RunDirectory, output: Path) -> LocalJob:
        cores = self._free.pop(0)
        wrapper = [sys.executable, "-m", "pathways_lite.studies.pinned", str(os.getpid()), cores]
        with output.open("ab") as file:
            process = subprocess.Popen(
                [*wrapper, *train_command(run)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C on the terminal is the runner's; it passes on one signal, not two
            )
        return LocalJob(process, cores, self._free)
