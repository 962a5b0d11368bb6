"""The history of a run directory: who started training there, with what, and how it ended.

`history.jsonl` has a row per start and one per end that could be told; a process that was killed leaves no end.

    start  time, command, host, ...: all of `provenance`
    end    time, status (exit status), stage, step (the newest checkpoint), reason (a sentence) where it failed
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pathways_lite.errors import UserError
from pathways_lite.json_values import restore_floats, to_json_types

FILE_NAME = "history.jsonl"

Row = dict[str, Any]


@dataclass(frozen=True)
class RunHistory:
    """The history of the run in `directory`. `fence` raises LostRunError where another process writes there now."""

    directory: Path
    fence: Callable[[], None] = lambda: None

    def add_start(self, provenance: Mapping[str, Any]) -> None:
        """Record that training starts."""
        self._append({"event": "start", **provenance})

    def add_end(self, status: int, stage: str | None, step: int, reason: str | None = None) -> None:
        """Record how it ended: exit status, and where it continues."""
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        row = {"event": "end", "time": time, "status": status, "stage": stage, "step": step}
        self._append(row | ({"reason": reason} if reason else {}))

    def _append(self, row: Row) -> None:
        self.fence()
        line = (json.dumps(to_json_types(row), ensure_ascii=False, allow_nan=False) + "\n").encode()
        path = self.directory / FILE_NAME
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                # A row that was cut off by a power cut ends here, and spoils only itself.
                if os.fstat(descriptor).st_size and not path.read_bytes().endswith(b"\n"):
                    line = b"\n" + line
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; free some space, or write elsewhere") from error


def read_history(directory: Path) -> list[Row]:
    """Read the rows, without damaged ones; none where the run is of an earlier version."""
    try:
        lines = (directory / FILE_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = restore_floats(json.loads(line))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and row.get("event") in ("start", "end"):
            rows.append(row)
    return rows


def last_start(rows: list[Row]) -> Row | None:
    """Return the last start; None if there is none."""
    return next((row for row in reversed(rows) if row["event"] == "start"), None)


def last_end(rows: list[Row]) -> Row | None:
    """Return how the last start ended; None if that is not known: it runs, or was killed."""
    return rows[-1] if rows and rows[-1]["event"] == "end" else None
