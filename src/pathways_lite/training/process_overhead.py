"""What a training process takes beside what it measures itself: start and end of the interpreter, reading the corpus.

Whoever starts such a process knows how long it was there, and keeps the difference for estimates of other shapes.
"""

from __future__ import annotations

import json
import statistics
from contextlib import suppress
from pathlib import Path

from pathways_lite.atomic_file import write_text_atomically

_FILE = "process_overheads.json"
_KEPT = 9


def keep_process_overhead(directory: Path, seconds: float) -> None:
    """Add a measurement to those of the devices whose speeds are in `directory`."""
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        values = [*_read(directory), max(0.0, seconds)][-_KEPT:]
        write_text_atomically(directory / _FILE, json.dumps(values), shared=True)


def process_overhead(directory: Path | None) -> float:
    """Return the median of the measurements in seconds, 0 where there is none."""
    values = [] if directory is None else _read(directory)
    return statistics.median(values) if values else 0.0


def _read(directory: Path) -> list[float]:
    with suppress(OSError, ValueError, TypeError):
        return [float(value) for value in json.loads((directory / _FILE).read_text())]
    return []
