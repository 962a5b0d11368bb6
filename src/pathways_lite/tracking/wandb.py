"""Weights & Biases, for those who ask for it: the extra `wandb`."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathways_lite.errors import UserError
from pathways_lite.tracking.trackers import scalars


class WandB:
    """Sends a stage's rows to Weights & Biases, as the run `<run>/<stage>` of the project `pathways-lite`.

    The environment variables of wandb (WANDB_PROJECT, WANDB_MODE=offline, ...) hold as usual.
    """

    def __init__(self, stage_dir: Path, *, run: str) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError(
                "--track wandb needs the package wandb; install it with: make install EXTRA=wandb"
            ) from error
        name = f"{run}/{stage_dir.name}"
        self._run = wandb.init(
            project="pathways-lite",
            name=name,
            group=run,
            id=_identifier(stage_dir, name),
            resume="allow",
            dir=str(stage_dir),
        )
        # After a resume steps come again, which wandb's own counter would refuse.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def row(self, row: Mapping[str, Any]) -> None:
        self._run.log(scalars(row) | {"step": row["step"]})

    def close(self) -> None:
        self._run.finish()


def _identifier(stage_dir: Path, name: str) -> str:
    """A run id that a resumed process finds again, and that another directory does not share."""
    return hashlib.sha256(f"{stage_dir.resolve()} {name}".encode()).hexdigest()[:16]
