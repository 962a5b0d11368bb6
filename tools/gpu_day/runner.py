"""Run one job: its results as they come, its time limit, its outcome."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from gpu_day.jobs import Job
from gpu_day.packages import ROOT
from gpu_day.results import Line, Results

GRACE_SECONDS = 5  # between SIGTERM and SIGKILL
_RESULT = "(?P<result>PASSED|FAILED|SKIPPED|ERROR)"
_TEST = re.compile(rf"(?P<test>\S+::\S+) {_RESULT}")
_TEST_OF_WORKER = re.compile(rf"\[gw\d+\] \[ *\d+%\] {_RESULT} (?P<test>\S+::\S+)")  # of pytest-xdist
_SUMMARY = re.compile(r"(FAILED|ERROR) (\S+::\S+) - (.*)")


def run_job(job: Job, results: Results, seconds: float, log: Path, environment: Mapping[str, str]) -> Line:
    """Run a job for at most `seconds`; what it prints besides results is written to `log`. Returns its last line."""
    start = time.monotonic()
    results.add({"job": job.name, "began": round(time.time()), "command": ["python", *job.command]})
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *job.command],
            cwd=ROOT,
            env={**os.environ, **environment, **job.environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        reader = threading.Thread(target=_read, args=(process.stdout, job.name, results, file))
        reader.start()
        try:
            process.wait(seconds)
            outcome: Line = {"outcome": "passed"}
            if process.returncode:
                outcome = {"outcome": "failed", "reason": f"exit status {process.returncode}: {_last_line(log)}"}
        except subprocess.TimeoutExpired:
            outcome = {"outcome": "timed out", "reason": f"not finished after {seconds:.0f} s"}
        finally:
            end_group(process)
            reader.join(GRACE_SECONDS)
    end = {"job": job.name, **outcome, "seconds": round(time.monotonic() - start, 1)}
    results.add(end)
    return end


def end_group(process: subprocess.Popen[str]) -> None:
    """End the process and all that it started, which may hold the device."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)


def _read(stream: IO[str], job: str, results: Results, log: IO[bytes]) -> None:
    """Add the results among the lines of a job's output, and copy the others to its log."""
    for line in stream:
        parsed = parse(line)
        if parsed is None:
            log.write(line.encode())
            log.flush()
        else:
            results.add({"job": job, **parsed})


def parse(line: str) -> Line | None:
    """Return a job's line of JSON, or a test's outcome in pytest's output; None for other lines."""
    if line.startswith("{"):
        with suppress(json.JSONDecodeError):
            return dict(json.loads(line))
    if match := _SUMMARY.match(line):
        return {"test": match[2], "message": match[3][:300]}
    match = _TEST.match(line) or _TEST_OF_WORKER.match(line)
    return {"test": match["test"], "result": match["result"].lower()} if match else None


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it printed nothing"
