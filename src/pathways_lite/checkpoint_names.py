"""Names of checkpoint directories, `step_00000100`: for what lists them without reading them."""

from __future__ import annotations

import re
from pathlib import Path


def checkpoint_name(step: int) -> str:
    """Return the name of a step's directory."""
    return f"step_{step:08d}"


def step_of(path: Path) -> int | None:
    """Return the step of a checkpoint's directory, None for any other path."""
    match = re.fullmatch(r"step_(\d{8,})", path.name)
    return int(match[1]) if match else None


def checkpoint_steps(directory: Path) -> list[int]:
    """Return the steps of the checkpoints in a directory, ascending, damaged ones included."""
    if not directory.is_dir():
        return []
    return sorted(step for path in directory.iterdir() if (step := step_of(path)) is not None)
