"""Helpers for tests of whole runs: run quickly, compare bit for bit, send a signal, cause a loss spike."""

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from pathways_lite.batch import Batch
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.recipe import AdamW, Constant, Continue, Recipe, apply_overrides
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training import describe as describe_module
from pathways_lite.training import final_evaluation
from pathways_lite.training.begun import stage_states
from pathways_lite.training.components import Components
from pathways_lite.training.hooks import TrainerHooks
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.run import train_run

TOTAL = 12  # steps of the tiny recipe


def describe(recipe: Recipe, run: RunDirectory | None = None) -> str:
    """Describe a recipe as `train --dry-run` does, which resolves it first."""
    resolved = resolve_recipe(recipe, run)
    return describe_module.describe(resolved, stage_states(resolved, run))


def describe_stages(recipe: Recipe, run: RunDirectory | None = None) -> list[dict[str, Any]]:
    """`describe` as JSON values."""
    resolved = resolve_recipe(recipe, run)
    return describe_module.describe_stages(resolved, stage_states(resolved, run))


def stub_slow_parts(patch: pytest.MonkeyPatch) -> None:
    """Replace what takes longer than the training steps and has its own tests: samples, plots, the machine's peak."""
    patch.setattr(
        final_evaluation,
        "sample_continuations",
        lambda evaluator, params: [{"prompt": "", "text": domain} for domain in evaluator.documents],
    )
    patch.setattr("pathways_lite.tracking.peak.measured_peak", lambda dtype: 1e11)
    patch.setattr("pathways_lite.training.run.draw_report", lambda run: None)


_compiled: dict[Any, Any] = {}


def forget_compiled() -> None:
    """Drop the programs that `compile_once` keeps."""
    _compiled.clear()


def compile_once(patch: pytest.MonkeyPatch) -> None:
    """Share components and compiled train steps among all runs of this process that would build the same."""
    original = Components.compile_step

    def compile_step(self: Components, sequences: int, seq_len: int | None = None) -> Any:
        stage = self.stage
        masked = self.spec.growth_masks and stage.start
        method = (masked, stage.freeze, stage.ema, stage.pruning, stage.reweighting, stage.domain_weights)
        sizes = (stage.data.seq_len, stage.data.seq_len_warmup, stage.batch_size, sequences, seq_len)
        key = (stage.model, stage.optimizer, stage.objective, stage.budget, method, sizes)
        if key not in _compiled:
            _compiled[key] = original(self, sequences, seq_len)
        return _compiled[key]

    patch.setattr(Components, "compile_step", compile_step)
    patch.setattr("pathways_lite.training.run.Components", lambda *args: _compiled.setdefault(args, Components(*args)))


def add_stage(recipe: Recipe, *changes: str, start: Any = None) -> Recipe:
    """Return the recipe with a second stage, named `more`, like its first one."""
    base = recipe.stages[0]
    more = base.model_copy(update={"name": "more", "start": start or Continue()})
    return apply_overrides(recipe.model_copy(update={"stages": (base, more)}), changes)


def constant(recipe: Recipe, budget: str = "12 steps", **optimizer: Any) -> Recipe:
    """The tiny recipe with a constant rate, so that a longer stage is what two shorter ones are."""
    stage = recipe.stages[0].model_copy(
        update={"optimizer": AdamW(learning_rate=1e-2, schedule=Constant(), **optimizer), "budget": budget}
    )
    return recipe.model_copy(update={"stages": (stage,)})


def run(recipe: Recipe, path: Path, hooks: TrainerHooks | None = None) -> int:
    """Train all stages of the recipe without output and return the exit status."""
    return train_run(recipe, path, console=Console(file=io.StringIO()), hooks=hooks)


def digest(path: Path, stage: str = "base", step: int = TOTAL) -> str:
    """Return the digest of all arrays of a checkpoint: parameters, optimizer state, key and step."""
    return read_manifest(CheckpointManager(path / stage / "checkpoints").path(step)).digest


def leaves(tree: Any) -> list[np.ndarray]:
    """Return the tree's leaves as NumPy arrays."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def log_bytes(path: Path, stage: str = "base") -> bytes:
    """Return the stage's log as it is on disk."""
    return (path / stage / "log.jsonl").read_bytes()


class StopAfter(TrainerHooks):
    """Simulates a SIGTERM that arrives during step `step` of a stage; from then on it stays requested."""

    def __init__(self, step: int, stage: str | None = None) -> None:
        self.step, self.stage = step, stage
        self.requested = 0

    def after_step(self, stage: str, step: int) -> None:
        if step == self.step and self.stage in (None, stage):
            self.requested = 15

    def stop_requested(self) -> int:
        return self.requested


class Died(BaseException):
    """Raised by `DieAfter`: the process ends without saving."""


class DieAfter(TrainerHooks):
    """Raises Died after `event` ("step", "evaluation" or "save") at step `step` or later."""

    def __init__(self, event: str, step: int) -> None:
        self.event, self.step = event, step

    def after_step(self, stage: str, step: int) -> None:
        self._die("step", step)

    def after_evaluation(self, stage: str, step: int) -> None:
        self._die("evaluation", step)

    def after_save(self, stage: str, step: int) -> None:
        self._die("save", step)

    def _die(self, event: str, step: int) -> None:
        if event == self.event and step >= self.step:
            raise Died


class InjectNaN(TrainerHooks):
    """Makes the loss NaN in every batch that contains example `sample`."""

    def __init__(self, sample: int) -> None:
        self.sample = sample

    def before_step(self, stage: str, step: int, batch: Batch) -> Batch:
        factor = np.where(batch.sample_id[:, 1] == self.sample, np.nan, 1.0).astype(np.float32)[:, None]
        return batch._replace(loss_weights=batch.loss_weights * factor)


class RecordSamples(TrainerHooks):
    """Collects the numbers of the examples of every batch in `samples`."""

    def __init__(self) -> None:
        self.samples: list[int] = []

    def before_step(self, stage: str, step: int, batch: Batch) -> Batch:
        self.samples.extend(batch.sample_id[:, 1].tolist())
        return batch


class Chain(TrainerHooks):
    """Calls several hooks in order."""

    def __init__(self, *hooks: TrainerHooks) -> None:
        self.hooks = hooks

    def before_step(self, stage: str, step: int, batch: Batch) -> Batch:
        for hooks in self.hooks:
            batch = hooks.before_step(stage, step, batch)
        return batch

    def after_step(self, stage: str, step: int) -> None:
        for hooks in self.hooks:
            hooks.after_step(stage, step)

    def stop_requested(self) -> int:
        return next((number for hooks in self.hooks if (number := hooks.stop_requested())), 0)
