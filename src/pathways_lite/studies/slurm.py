"""An executor that runs nodes as Slurm jobs, submitted and requeued by submitit (the extra `slurm`).

A job is one `pathways-lite train` of one node, in the requested number of tasks; JAX learns process numbers from Slurm.
Jobs outlive a runner that is killed; the next runner finds them by the number in the node's `job.json`. `squeue` says
whether a job still exists: every Slurm has it, while submitit's own `sacct` needs an accounting database.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathways_lite.errors import UserError
from pathways_lite.extras import install_command
from pathways_lite.run_directory import RunDirectory, write_json
from pathways_lite.studies.executor import train_command

_QUEUE_INTERVAL = 5.0  # seconds between calls of squeue
_LOST_JOB = -signal.SIGKILL  # the status of a job that has left no result


class TrainNode:
    """The work of each task of a job; submitit pickles it and calls `checkpoint` shortly before the time limit."""

    def __init__(self, run: Path, output: Path, samples: bool = False) -> None:
        self.run, self.output, self.samples = run, output, samples
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Train the node and return the exit status."""
        wrapper = [sys.executable, "-m", "pathways_lite.studies.pinned", str(os.getpid()), "all"]
        with self.output.open("ab") as file:
            command = [*wrapper, *train_command(RunDirectory(self.run), samples=self.samples)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        return self._process.wait()

    def checkpoint(self) -> Any:
        """Save and end; the requeued job continues from there."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        return DelayedSubmission(TrainNode(self.run, self.output, self.samples))


@dataclass
class SlurmJob:
    """A job that is queued or running."""

    number: str
    folder: Path  # where submitit writes its result
    queue: _Queue

    def poll(self) -> int | None:
        if (status := self._result()) is not None:
            return status
        if self.queue.has(self.number):
            return None
        status = self._result()  # it may have been written while squeue ran
        return _LOST_JOB if status is None else status

    def stop(self) -> None:
        subprocess.run(["scancel", self.number], check=False)

    def _result(self) -> int | None:
        from submitit.core.utils import JobPaths, pickle_load

        path = JobPaths(self.folder, self.number, 0).result_pickle
        if not path.exists():
            return None
        outcome, result = pickle_load(path)
        return int(result) if outcome == "success" else 1


@dataclass
class _Queue:
    """The numbers of all queued and running jobs, from one call of squeue at most every few seconds."""

    _job_numbers: set[str] = field(default_factory=set)
    _queried_at: float = -_QUEUE_INTERVAL

    def has(self, number: str) -> bool:
        if time.monotonic() - self._queried_at >= _QUEUE_INTERVAL:
            squeue = subprocess.run(["squeue", "--noheader", "--me", "--format=%A"], capture_output=True, text=True)
            if squeue.returncode == 0:  # without an answer of the controller nothing is known about jobs
                self._job_numbers = set(squeue.stdout.split())
            self._queried_at = time.monotonic()
        return number in self._job_numbers

    def add(self, number: str) -> None:
        self._job_numbers.add(number)


class SlurmExecutor:
    """An executor of at most `jobs` Slurm jobs at a time.

    `parameters` are sbatch's, under submitit's names (time, partition, nodes, tasks_per_node, gpus_per_node, ...).
    """

    def __init__(self, folder: Path, jobs: int, parameters: Mapping[str, str], *, samples: bool = False) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError(f"--executor slurm needs submitit, an extra: {install_command('slurm')}") from error
        self.slots, self.folder, self._queue, self._samples = jobs, folder, _Queue(), samples
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
            self._executor.update_parameters(
                **{_submitit_name(name): _parse_value(v) for name, v in parameters.items()}
            )
        except (RuntimeError, ValueError, NameError) as error:
            raise UserError(f"--executor slurm: {error}") from error

    def start(self, run: RunDirectory, output: Path) -> SlurmJob:
        number = self._earlier_job(run)
        if number is None:
            self._executor.update_parameters(name=run.path.name)
            number = self._executor.submit(TrainNode(run.path.absolute(), output.absolute(), self._samples)).job_id
            write_json(run.path / "job.json", {"number": number})
        self._queue.add(number)
        return SlurmJob(number, self.folder, self._queue)

    def _earlier_job(self, run: RunDirectory) -> str | None:
        """Return the number of the node's job that an earlier runner submitted, if it still exists."""
        try:
            number = str(json.loads((run.path / "job.json").read_text())["number"])
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return number if self._queue.has(number) else None


def _submitit_name(name: str) -> str:
    """Return submitit's name of a parameter: those that it shares between clusters have no prefix."""
    shared = {"nodes", "tasks_per_node", "cpus_per_task", "mem_gb", "gpus_per_node", "timeout_min", "name"}
    return name if name in shared else f"slurm_{name}"


def _parse_value(value: str) -> int | str:
    return int(value) if value.isdigit() else value
