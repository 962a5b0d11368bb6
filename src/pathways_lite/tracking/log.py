"""The two logs of a stage: reproducible values, and wall-clock times.

`log.jsonl` holds only values that another run of the same recipe reproduces bit for bit, so that a resumed
run's file is byte-identical to an uninterrupted one's. `timings.jsonl` holds everything else.

Every row is one JSON object with `kind` and `step`, the number of steps taken when it was written:

    log.jsonl      train  tokens, flops (of the stage, so far), loss, mean_loss, grad_norm, ...; docs/runs.md has all
                   eval   tokens, flops, domains: {name: {loss, bits_per_byte, nll, tokens, bytes, documents}},
                          with `lossy` and `overlap` where they are not 0; if the objective has any, denoisers:
                          {name: {loss, tokens, content_loss, content_tokens, format_loss, format_tokens, unused}};
                          tasks, if the recipe names any: {name: {items, shots, chance, accuracy, accuracy_se, ...}},
                          docs/downstream.md has all; of the moving average, if there is one, average_domains,
                          average_denoisers, average_tasks
                   statistics  norms and activations by layer, see `training.statistics`
                   event  event: "skip", "rewind", "early_stop", "lost_rows" (before this step), ..., and its details
    timings.jsonl  train  seconds (since the stage started), tokens_per_second, flops_per_second,
                          share_of_peak (null at the first step)
                   compile, save, evaluate   seconds, duration
                   event  seconds, event: "resume", "interrupt", ...: what happened to this run only
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pathways_lite.atomic_file import replace_atomically
from pathways_lite.errors import UserError
from pathways_lite.json_values import restore_floats, to_json_types

LOG = "log.jsonl"
TIMINGS = "timings.jsonl"

Row = dict[str, Any]


class RunLog:
    """Writer of `log.jsonl` and `timings.jsonl` in a stage directory, which is created if necessary.

    A row is written by a single unbuffered system call: killing the process loses at most the row being written, and
    opening the log removes a torn last row.

    To keep a resumed log identical, write every row of step k before the checkpoint of step k starts, then call `sync`;
    on resuming from that checkpoint, call `truncate_after(k)`. An event that changes the steps from k on (a rewind to
    checkpoint k) has step k + 1, so that resuming from k removes it together with the steps after it.

    Raises UserError if a file cannot be written (a full disk, no permission) or is not a log.
    """

    def __init__(self, stage_dir: str | Path, *, fence: Callable[[], None] = lambda: None) -> None:
        """Open the log. `fence` is called before every write; it raises LostRunError if another process writes now."""
        self.directory = Path(stage_dir)
        self._files: dict[str, int] = {}
        self._fence = fence
        self._mark = {"bytes": 0, "crc32": 0}  # of `log.jsonl`
        fence()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for name in (LOG, TIMINGS):
                _remove_torn_line(self.directory / name)
                self._open(name)
        except OSError as error:
            self.close()
            raise _cannot_write(self.directory, error) from error

    def row(self, kind: str, step: int, **values: Any) -> Row:
        """Append a reproducible row and return it as a reader will see it. Scalars may be Python, NumPy or JAX."""
        return self._append(LOG, kind, step, values)

    def timing(self, kind: str, step: int, **values: Any) -> Row:
        """Append a wall-clock row and return it as a reader will see it."""
        return self._append(TIMINGS, kind, step, values)

    def truncate_after(self, step: int) -> None:
        """Remove the rows after `step` atomically, except events in the timings, which did happen to this run."""
        self._rewrite(LOG, lambda row: row["step"] <= step)
        self._rewrite(TIMINGS, lambda row: row["step"] <= step or row["kind"] == "event")

    def rows(self) -> list[Row]:
        """Return the reproducible rows so far."""
        return read_log(self.directory / LOG)

    @property
    def mark(self) -> dict[str, int] | None:
        """Size and checksum of the reproducible rows so far, by which `holds` finds out whether some were lost."""
        return dict(self._mark)

    def holds(self, mark: Mapping[str, int]) -> bool:
        """Return whether the log still begins with the rows that it had at an earlier `mark`."""
        content = (self.directory / LOG).read_bytes()[: mark["bytes"]]
        return _mark_of(content) == mark

    def sync(self) -> None:
        """Flush the rows to disk, so that a power failure cannot leave a checkpoint ahead of its log."""
        self._fence()
        for file in self._files.values():
            os.fsync(file)

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, name: str) -> None:
        self._files[name] = os.open(self.directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if name == LOG:
            self._mark = _mark_of((self.directory / name).read_bytes())

    def _append(self, name: str, kind: str, step: int, values: Mapping[str, Any]) -> Row:
        self._fence()
        row = _make_row(kind, step, values)
        line = (json.dumps(row, default=_reject_type, ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            written = os.write(self._files[name], line)
        except OSError as error:
            raise _cannot_write(self.directory / name, error) from error
        if written < len(line):  # the disk filled up in the middle of the line
            raise _cannot_write(self.directory / name, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        if name == LOG:
            self._mark = _mark_of(line, self._mark)
        return row

    def _rewrite(self, name: str, keep: Callable[[Row], bool]) -> None:
        self._fence()
        path = self.directory / name
        lines = path.read_bytes().splitlines(keepends=True)
        kept_lines = [line for number, line in enumerate(lines, 1) if keep(_parse_line(line, path, number))]
        if kept_lines == lines:
            return
        try:
            _rewrite_durably(path, b"".join(kept_lines))
            os.close(self._files.pop(name))
            self._open(name)
        except OSError as error:
            raise _cannot_write(path, error) from error


class NullLog:
    """The log of a process that is not the primary one: writes nothing, and returns the same as `RunLog`."""

    def row(self, kind: str, step: int, **values: Any) -> Row:
        return _make_row(kind, step, values)

    timing = row

    def truncate_after(self, step: int) -> None:
        """Do nothing: there are no rows."""

    def rows(self) -> list[Row]:
        return []

    @property
    def mark(self) -> dict[str, int] | None:
        return None

    def holds(self, mark: Mapping[str, int]) -> bool:
        return True

    def sync(self) -> None:
        """Do nothing: there are no files."""


def read_log(path: str | Path) -> list[Row]:
    """Read the rows of a log, without a torn last line. A log that does not exist yet has none.

    Raises UserError, with file and line, if any other line is damaged.
    """
    path = Path(path)
    if not path.exists():
        return []
    complete = path.read_bytes().rpartition(b"\n")[0]
    return [_parse_line(line, path, number) for number, line in enumerate(complete.splitlines(), 1)]


def _make_row(kind: str, step: int, values: Mapping[str, Any]) -> Row:
    return {"kind": kind, "step": int(step)} | {key: to_json_types(value) for key, value in values.items()}


def _mark_of(content: bytes, before: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the mark of a log that continues with `content` after the mark `before`."""
    size, crc = (before["bytes"], before["crc32"]) if before else (0, 0)
    return {"bytes": size + len(content), "crc32": zlib.crc32(content, crc)}


def _reject_type(value: Any) -> Any:
    raise TypeError(f"a log row holds scalars, text, lists and dicts, not {type(value).__name__}")


def _parse_line(line: bytes, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int) or not isinstance(row.get("kind"), str):
        raise UserError(f"{path}:{number} is not a row of a log (a JSON object with kind and step); remove that line")
    restored: Row = restore_floats(row)
    return restored


def _remove_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        _rewrite_durably(path, content[: content.rfind(b"\n") + 1])


def _rewrite_durably(path: Path, content: bytes) -> None:
    """Replace the file's content: a crash or a power cut leaves the old file or the new one, never a part."""
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror or error}; free some space or choose another run directory")
