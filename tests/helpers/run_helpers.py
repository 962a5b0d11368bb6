"""Helpers for tests of whole runs: run quickly, compare bit for bit, send a signal, cause a loss spike."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from pathways_lite.batch import Batch
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.distributed.stopping import Stop
from pathways_lite.recipe import Continue, Recipe, apply_overrides
from pathways_lite.training import final_evaluation
from pathways_lite.training.loop import Trainer
from pathways_lite.training.run import train_run
from pathways_lite.training.setup import Setup

TOTAL = 12  # steps of the tiny recipe


def stub_slow_parts(patch: pytest.MonkeyPatch) -> None:
    """Replace what takes longer than the training steps and has its own tests: samples, plots, the machine's peak."""
    patch.setattr(final_evaluation, "_sample", lambda setup, params, domain: {"prompt": "", "text": domain})
    patch.setattr("pathways_lite.tracking.peak.measured_peak", lambda dtype: 1e11)
    patch.setattr("pathways_lite.training.run._draw", lambda run: None)


_compiled: dict[Any, Any] = {}


def compile_once(patch: pytest.MonkeyPatch) -> None:
    """Share setups and compiled train steps among all runs of this process that would build the same."""
    original = Setup.compile_step

    def compile_step(self: Setup, sequences: int) -> Any:
        stage = self.stage
        masked = self.masks and stage.start
        method = (masked, stage.pruning, stage.reweighting, stage.domain_weights)
        key = (stage.model, stage.optimizer, stage.objective, stage.budget, stage.batch_size, method, sequences)
        if key not in _compiled:
            _compiled[key] = original(self, sequences)
        return _compiled[key]

    patch.setattr(Setup, "compile_step", compile_step)
    patch.setattr("pathways_lite.training.run.Setup", lambda *args: _compiled.setdefault(args, Setup(*args)))


def add_stage(recipe: Recipe, *changes: str, start: Any = None) -> Recipe:
    """Return the recipe with a second stage, named `more`, like its first one."""
    base = recipe.stages[0]
    more = base.model_copy(update={"name": "more", "start": start or Continue()})
    return apply_overrides(recipe.model_copy(update={"stages": (base, more)}), changes)


def run(recipe: Recipe, path: Path) -> int:
    """Train all stages of the recipe without output and return the exit status."""
    return train_run(recipe, path, console=Console(file=io.StringIO()))


def digest(path: Path, stage: str = "base", step: int = TOTAL) -> str:
    """Return the digest of all arrays of a checkpoint: parameters, optimizer state, key and step."""
    return read_manifest(CheckpointManager(path / stage / "checkpoints").path(step)).digest


def leaves(tree: Any) -> list[np.ndarray]:
    """Return the tree's leaves as NumPy arrays."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def log_bytes(path: Path, stage: str = "base") -> bytes:
    """Return the stage's log as it is on disk."""
    return (path / stage / "log.jsonl").read_bytes()


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Simulate a SIGTERM that arrives during `step`. A second call replaces the first."""
    original = Trainer._take_step

    def should_stop(stop: Stop) -> int:
        stop._answer = 15
        return 15

    def take_step(self: Trainer, batch: Batch) -> Any:
        result = original(self, batch)
        if self.step == step:
            monkeypatch.setattr(Stop, "should_stop", should_stop)
        return result

    monkeypatch.setattr(Trainer, "_take_step", take_step)


def inject_nan(monkeypatch: pytest.MonkeyPatch, sample: int) -> None:
    """Make the loss NaN in every batch that contains example `sample`."""

    def corrupt(batch: Batch) -> Batch:
        factor = np.where(batch.sample_id[:, 1] == sample, np.nan, 1.0).astype(np.float32)[:, None]
        return batch._replace(loss_weights=batch.loss_weights * factor)

    _transform_batches(monkeypatch, corrupt)


def record_samples(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every train step appends the numbers of its batch's examples."""
    samples: list[int] = []

    def record(batch: Batch) -> Batch:
        samples.extend(batch.sample_id[:, 1].tolist())
        return batch

    _transform_batches(monkeypatch, record)
    return samples


def _transform_batches(monkeypatch: pytest.MonkeyPatch, transform: Callable[[Batch], Batch]) -> None:
    """Apply `transform` to every batch before the compiled train step takes it."""
    original = Trainer._train_step

    def train_step(self: Trainer, batch: Batch) -> Any:
        compiled = original(self, batch)
        return lambda state, batch, clock: compiled(state, transform(batch), clock)

    monkeypatch.setattr(Trainer, "_train_step", train_step)
