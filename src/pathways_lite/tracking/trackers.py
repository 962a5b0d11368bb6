"""Trackers: send a run's rows to TensorBoard, Weights & Biases or a plugin, in addition to its own logs."""

from __future__ import annotations

import hashlib
import importlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pathways_lite.console import print_line
from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.extras import install_command
from pathways_lite.plugins import plugins

NAMES = ("tensorboard", "wandb")


class Tracker(Protocol):
    """A receiver of the rows of both logs of a stage, as `RunLog` returns them."""

    def row(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


def open_trackers(names: Iterable[str], stage_dir: Path, *, run: str, step: int = 0) -> list[Tracker]:
    """Open the named trackers for one stage of the run called `run`.

    `step` is the restored one: rows of an earlier process after it are hidden. A tracker's package is imported only if
    the tracker is requested. Raises UserError for an unknown name or a package that is not installed.
    """
    trackers: list[Tracker] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            trackers.append(TensorBoard(stage_dir / "tensorboard", step=step))
        elif name == "wandb":
            trackers.append(WandB(stage_dir, run=run))
        elif (plugin := plugins("trackers").get(name)) is not None:
            trackers.append(PluginTracker(name, plugin.load(), stage_dir, run=run, step=step))
        else:
            raise UserError(f"there is no tracker {name!r}.{did_you_mean(name, (*NAMES, *plugins('trackers')))}")
    return trackers


class PluginTracker:
    """A tracker of another package (group `pathways_lite.trackers`), which never stops a run.

    `make(stage_dir, run=, step=)` opens it. What it raises is said once, and it gets no more rows.
    """

    def __init__(self, name: str, make: Callable[..., Tracker], stage_dir: Path, *, run: str, step: int) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        self._tracker = self._try(lambda: make(stage_dir, run=run, step=step))

    def row(self, row: Mapping[str, Any]) -> None:
        if (tracker := self._tracker) is not None:
            self._try(lambda: tracker.row(row))

    def close(self) -> None:
        if (tracker := self._tracker) is not None:
            self._try(tracker.close)

    def _try[T](self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except Exception as error:
            self._tracker = None
            print_line(f"warning: the tracker {self._name} gets no more rows: {type(error).__name__}: {error}")
            return None


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a row by slash-separated name: `train/loss`, `eval/code/bits_per_byte`.

    Lists are left out, except those of statistics, whose numbers are of layers: `statistics/residual_rms/layer_03`.
    """
    values = {key: value for key, value in row.items() if key not in ("kind", "step", "domains")}
    return _flatten(str(row["kind"]), values | dict(row.get("domains", {})))


def _flatten(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}/{key}"
        if isinstance(value, list) and prefix.startswith("statistics"):
            value = {f"layer_{layer:02d}": number for layer, number in enumerate(value)}
        if isinstance(value, Mapping):
            flat |= _flatten(name, value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            flat[name] = float(value)
    return flat


# ---- TensorBoard ----


class TensorBoard:
    """A tracker that writes rows as scalars into TensorBoard event files in `directory`.

    tensorboardX writes them, so no TensorFlow is needed. `step` is the restored one; TensorBoard hides later rows of an
    earlier process.
    """

    def __init__(self, directory: Path, *, step: int = 0) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UserError("TensorBoard events need tensorboardX; install pathways-lite again") from error
        self._writer = SummaryWriter(
            str(directory),
            # TensorBoard hides this step too, hence the next one.
            purge_step=step + 1 if step else None,
            flush_secs=10,
            # File names have whole seconds only: a writer opened within the same second would overwrite the last one.
            filename_suffix=f".{time.time_ns()}",
        )

    def row(self, row: Mapping[str, Any]) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, global_step=row["step"])

    def close(self) -> None:
        self._writer.close()


# ---- Weights & Biases ----


class WandB:
    """A tracker that sends rows to Weights & Biases, as the run `<run>/<stage>` of the project `pathways-lite`.

    It needs the extra `wandb`. The environment variables of wandb (WANDB_PROJECT, WANDB_MODE=offline, ...) apply.
    """

    def __init__(self, stage_dir: Path, *, run: str) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError(
                f"--track wandb needs the package wandb; install it with: {install_command('wandb')}"
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
        # After a resume steps are logged again, which wandb's own step counter rejects.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def row(self, row: Mapping[str, Any]) -> None:
        self._run.log(scalars(row) | {"step": row["step"]})

    def close(self) -> None:
        self._run.finish()


def _identifier(stage_dir: Path, name: str) -> str:
    """Return a run id that is stable when a run is resumed, and different in another directory."""
    return hashlib.sha256(f"{stage_dir.resolve()} {name}".encode()).hexdigest()[:16]
