"""What the tests of whole runs share: running quickly, comparing bit for bit, a signal, a spike."""

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from pathways_lite.batch import Batch
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.distributed.stopping import Stop
from pathways_lite.recipe import Recipe
from pathways_lite.training import final_evaluation
from pathways_lite.training.loop import Trainer
from pathways_lite.training.run import train_run
from pathways_lite.training.setup import Setup

TOTAL = 12  # steps of the tiny recipe


def leave_out_what_has_tests_of_its_own(patch: pytest.MonkeyPatch) -> None:
    """Samples, pictures and the machine's peak."""
    patch.setattr(final_evaluation, "_sample", lambda setup, params, domain: {"prompt": "", "text": domain})
    patch.setattr("pathways_lite.tracking.peak.measured_peak", lambda dtype: 1e11)
    patch.setattr("pathways_lite.training.run._draw", lambda run: None)


COMPILED: dict[Any, Any] = {}


def compile_once(patch: pytest.MonkeyPatch) -> None:
    """All runs here share what they would otherwise trace and compile again: it is the same."""
    original = Setup.compile_step

    def compile_step(self: Setup, sequences: int) -> Any:
        stage = self.stage
        masked = self.masks and stage.start
        method = (masked, stage.pruning, stage.reweighting, stage.domain_weights)
        key = (stage.model, stage.optimizer, stage.objective, stage.budget, stage.batch_size, method, sequences)
        if key not in COMPILED:
            COMPILED[key] = original(self, sequences)
        return COMPILED[key]

    patch.setattr(Setup, "compile_step", compile_step)
    patch.setattr("pathways_lite.training.run.Setup", lambda *args: COMPILED.setdefault(args, Setup(*args)))


def run(recipe: Recipe, path: Path) -> int:
    return train_run(recipe, path, console=Console(file=io.StringIO()))


def digest(path: Path, stage: str = "base", step: int = TOTAL) -> str:
    """Of everything the final checkpoint holds: parameters, optimizer, key, step."""
    return read_manifest(CheckpointManager(path / stage / "checkpoints").path(step)).digest


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def log_of(path: Path, stage: str = "base") -> bytes:
    return (path / stage / "log.jsonl").read_bytes()


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM arrives while `step` is being taken; each call replaces the one before."""
    original = Trainer._take_step

    def ask(stop: Stop) -> int:
        stop._answer = 15
        return 15

    def take_step(self: Trainer, batch: Batch) -> Any:
        result = original(self, batch)
        if self.step == step:
            monkeypatch.setattr(Stop, "should_stop", ask)
        return result

    monkeypatch.setattr(Trainer, "_take_step", take_step)


def poison(monkeypatch: pytest.MonkeyPatch, sample: int, value: float, seen: list[int] | None = None) -> None:
    """Whenever example `sample` is in a batch, its loss becomes `value` times as large."""
    original = Trainer._train_step

    def train_step(self: Trainer, batch: Batch) -> Any:
        compiled = original(self, batch)

        def poisoned(state: Any, batch: Batch, clock: Any) -> Any:
            ids = batch.sample_id[:, 1]
            if seen is not None:
                seen.extend(ids.tolist())
            factor = np.where(ids == sample, value, 1.0).astype(np.float32)[:, None]
            return compiled(state, batch._replace(loss_weights=batch.loss_weights * factor), clock)

        return poisoned

    monkeypatch.setattr(Trainer, "_train_step", train_step)
