"""The file of results: JSON lines, written as they come, whole even after a kill, and read back to continue.

A line has `job`. An attempt at a job begins with a line with `began` (seconds since 1970) and ends with one with
`outcome` and, except for `passed`, `reason`; the last attempt counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Results:
    """The lines of one file, those of an earlier run first."""

    def __init__(self, path: Path) -> None:
        """Open `path`, which need not exist. A last line that a kill has cut is removed."""
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self.lines: list[Line] = [json.loads(line) for line in whole.splitlines()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, len(whole))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def add(self, line: Line) -> None:
        """Append a line, by one write."""
        self.lines.append(line)
        os.write(self._file, (json.dumps(line) + "\n").encode())

    def of(self, job: str) -> list[Line]:
        """Return the lines of the last attempt at a job, without the one that begins it."""
        lines = [line for line in self.lines if line["job"] == job]
        begins = [number for number, line in enumerate(lines) if "began" in line]
        return lines[begins[-1] + 1 :] if begins else lines

    def end(self, job: str) -> Line | None:
        """Return the line that ends the last attempt at a job; None if nothing has ended it."""
        return next((line for line in reversed(self.of(job)) if "outcome" in line), None)

    def passed(self, job: str) -> bool:
        end = self.end(job)
        return end is not None and end["outcome"] == "passed"

    def rows(self, jobs: Iterable[str]) -> list[Line]:
        """Return the results proper of some jobs."""
        return [line for job in jobs for line in self.of(job) if "outcome" not in line]
