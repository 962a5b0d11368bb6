"""Other places a run's rows can go, beside its own logs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pathways_lite.errors import UserError

NAMES = ("tensorboard", "wandb")


class Tracker(Protocol):
    """Receives the rows of both logs of a stage, as `RunLog` returns them."""

    def row(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


def open_trackers(names: Iterable[str], stage_dir: Path, *, run: str, step: int = 0) -> list[Tracker]:
    """The trackers of these names for one stage of the run called `run`.

    `step` is the restored one: what an earlier process showed beyond it is hidden.
    Raises UserError for an unknown name or a package that is not installed.
    """
    # Each tracker's package is imported only when it is asked for.
    trackers: list[Tracker] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            from pathways_lite.tracking.tensorboard import TensorBoard

            trackers.append(TensorBoard(stage_dir / "tensorboard", step=step))
        elif name == "wandb":
            from pathways_lite.tracking.wandb import WandB

            trackers.append(WandB(stage_dir, run=run))
        else:
            raise UserError(f"no tracker is called {name!r}; use {' or '.join(NAMES)}")
    return trackers


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row by slash-separated name: `train/loss`, `eval/code/bits_per_byte`."""
    values = {key: value for key, value in row.items() if key not in ("kind", "step", "domains")}
    return _flatten(str(row["kind"]), values | dict(row.get("domains", {})))


def _flatten(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Mapping):
            flat |= _flatten(name, value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            flat[name] = float(value)
    return flat
