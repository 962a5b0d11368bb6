"""What the runner needs of whatever executes nodes. A job is one `pathways-lite train` of one node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

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
