"""TensorBoard event files, written by tensorboardX: no TensorFlow is needed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathways_lite.errors import UserError
from pathways_lite.tracking.trackers import scalars


class TensorBoard:
    """Writes a stage's rows as scalars into event files in `directory`.

    `step` is the restored one; TensorBoard hides what an earlier process wrote beyond it.
    """

    def __init__(self, directory: Path, *, step: int = 0) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UserError("TensorBoard events need tensorboardX, which `make install` brings") from error
        self._writer = SummaryWriter(
            str(directory),
            # It hides that step too, hence the next one.
            purge_step=step + 1 if step else None,
            flush_secs=10,
            # File names hold whole seconds: without this, a writer opened within one would overwrite the last.
            filename_suffix=f".{time.time_ns()}",
        )

    def row(self, row: Mapping[str, Any]) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, global_step=row["step"])

    def close(self) -> None:
        self._writer.close()
