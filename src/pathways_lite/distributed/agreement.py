"""Check that the processes of a run agree before any of them compiles: their settings and the run directory.

Processes that differ would wait for each other inside a step or a save, where nothing tells why.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathways_lite.distributed import coordination
from pathways_lite.errors import UserError

VISIBLE = 10.0
"""Seconds until a new file must be visible to all processes; network file systems cache directories."""

_SHOWN = 5  # differences that an error lists


def require_same(settings: Mapping[str, Any]) -> None:
    """Raise UserError in all processes where a setting (a JSON value) is not the same in each; it names both values."""
    if coordination.process_count() == 1:
        return
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if not coordination.gather_and_decide(digest, lambda digests: len(set(digests)) > 1):
        return
    coordination.gather_and_decide(json.loads(text), _refuse_differences)


def _refuse_differences(settings: list[dict[str, Any]]) -> None:
    first = settings[0]
    lines = [
        f"  {name}: {first.get(name)!r} in process 0, {other.get(name)!r} in process {process}"
        for process, other in enumerate(settings)
        for name in sorted(first.keys() | other.keys())
        if first.get(name) != other.get(name)
    ]
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    raise UserError(
        "\n".join(["the processes differ; start all of them with the same command:", *lines[:_SHOWN], *more])
    )


def require_shared_directory(path: Path) -> None:
    """Raise UserError in all processes where one of them does not see the directory `path` of process 0."""
    if coordination.process_count() == 1:
        return
    probe = path / coordination.run_on_primary(lambda: _write_probe(path))
    try:
        coordination.run_on_all(lambda: _wait_for_probe(probe))
    finally:
        if coordination.is_primary():
            probe.unlink(missing_ok=True)


def _write_probe(path: Path) -> str:
    name = f".shared-{secrets.token_hex(8)}"
    (path / name).touch()
    return name


def _wait_for_probe(probe: Path) -> None:
    end = time.monotonic() + VISIBLE
    while not probe.exists():
        if time.monotonic() > end:
            raise UserError(
                f"process {coordination.process_index()} on {socket.gethostname()} does not see the run directory of "
                f"process 0 at {probe.parent.absolute()}; give all processes the same --out, on a file system that "
                "their hosts share"
            )
        time.sleep(0.1)
