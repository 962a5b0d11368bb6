"""What a run did, again: the batch that a step read, the state of a checkpoint, and the step from it to the next.

All three are exact. A batch is a pure function of the step, and a step of the state and its batch, so a step from the
checkpoint of step k gives the state of step k + 1, bit for bit on the same machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.checkpoints import CheckpointManager, restore, step_of
from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import DataStream
from pathways_lite.data.store import find_store, open_store
from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.paths import local_path
from pathways_lite.recipe import Scratch, Stage
from pathways_lite.run_directory import RunDirectory
from pathways_lite.tracking.log import LOG, Row, read_log
from pathways_lite.training.load import TrainedModel, load_model
from pathways_lite.training.stage import StageSpec
from pathways_lite.training.step import TrainState

# ---- data ----


@dataclass(frozen=True)
class StageReading:
    """What decides which text the steps of a stage read.

    steps: how many it has taken, as far as is known.
    path: the checkpoint that says so, or the stage's directory.
    directory: where training was started, from which a relative path of the corpus counts; None: not known.
    """

    path: Path
    spec: StageSpec
    cursor: DataCursor
    steps: int
    directory: str | None = None

    @classmethod
    def of(cls, model: TrainedModel) -> StageReading:
        """Return what a checkpoint's stage has read until then."""
        meta = model.manifest.meta
        directory = meta.get("provenance", {}).get("directory")
        return cls(model.path, model.spec, DataCursor.from_json(meta["cursor"]), model.manifest.step, directory)

    @property
    def stage(self) -> Stage:
        return self.spec.stage


def load_reading(path: str | Path, stage: str | None = None) -> StageReading:
    """Load what the newest checkpoint at or below `path`, or of one stage of the run there, says about its data.

    A stage from scratch needs no checkpoint: it begins at the beginning. Raises UserError where nothing is known.
    """
    run = RunDirectory(local_path(path))
    if stage is None and (not run.recipe_path.is_file() or _begun(run)):
        return StageReading.of(load_model(path, examined=False))
    recipe = run.recipe()
    names = [item.name for item in recipe.stages]
    if stage is not None and stage not in names:
        raise UserError(f"{path} has no stage {stage!r}.{did_you_mean(stage, names)}")
    index = 0 if stage is None else names.index(stage)
    directory = run.stage(names[index])
    if names[index] in _begun(run) or not isinstance(recipe.stages[index].start, Scratch):
        return StageReading.of(load_model(directory.path, examined=False))
    steps = max((row["step"] for row in read_log(directory.path / LOG)), default=0)
    return StageReading(directory.path, StageSpec(recipe, index), DataCursor(), steps)


def load_readings(path: str | Path) -> list[StageReading]:
    """Load what the stages of a run with a checkpoint have read, or that of a single stage or checkpoint."""
    run = RunDirectory(local_path(path))
    begun = _begun(run) if run.recipe_path.is_file() else []
    return [load_reading(path, name) for name in begun] or [load_reading(path)]


def _begun(run: RunDirectory) -> list[str]:
    """Return the stages of a run that have a checkpoint."""
    names = [stage.name for stage in run.recipe().stages]
    return [name for name in names if CheckpointManager(run.stage(name).checkpoints).steps()]


def data_stream(
    source: TrainedModel | StageReading, corpus: str | None = None, *, skips: int | None = None
) -> DataStream:
    """Return the batches of a stage by step, as it has read them.

    `corpus`: the same corpus at another place. `skips`: how many of the skips of data to count, all by default; less
    gives what was read before a rewind. Raises UserError for another corpus.
    """
    reading = source if isinstance(source, StageReading) else StageReading.of(source)
    stage, cursor = reading.stage, reading.cursor
    try:
        store = open_store(corpus or find_store(stage.data.corpus, reading.directory))
    except UserError as error:
        hint = "" if corpus else f"\nThe recipe of {reading.path} names it; if it is elsewhere now, use --corpus"
        raise UserError(f"{error}{hint}") from error
    if store.fingerprint != (stage.data.fingerprint or store.fingerprint):
        raise UserError(
            f"{store.address} is not the corpus that {reading.path} was trained on: its fingerprint is "
            f"{store.fingerprint[:12]}, not {str(stage.data.fingerprint)[:12]}"
        )
    cursor = replace(cursor, skips=cursor.skips if skips is None else cursor.skips[:skips])
    return DataStream(store, stage.data, reading.spec.timeline, stage.objective, cursor)


def batch_at(model: TrainedModel, step: int, corpus: str | None = None) -> Batch:
    """Return the batch that `step` of the model's stage reads, NumPy arrays; steps count from 0.

    Step k leads from the checkpoint of step k to that of step k + 1. Raises UserError for a step that the stage does
    not have, and where the corpus is not there.
    """
    require_step(model.spec, step)
    return data_stream(model, corpus).batch_at(step)


def require_step(spec: StageSpec, step: int) -> None:
    """Raise UserError for a step that the stage does not have."""
    if not 0 <= step < (total := spec.timeline.total_steps):
        raise UserError(f"stage {spec.stage.name!r} has the steps 0 to {total - 1:,}; there is no step {step:,}")


# ---- steps ----


def restore_state(model: TrainedModel) -> TrainState:
    """Read the whole training state of the checkpoint: parameters, optimizer, method, random key and step.

    Raises UserError for a checkpoint that holds parameters alone.
    """
    if "step" not in model.manifest.arrays:
        raise UserError(
            f"{model.path} holds parameters alone, no state to train on; `model.components.state_with(model.params())` "
            "makes one with a fresh optimizer"
        )
    state: TrainState = restore(model.path, model.components.abstract_state).arrays
    return state


def train_step(model: TrainedModel, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Take one optimizer step with the stage's own program: return the next state and the step's metrics.

    `state` is left as it is. The step is compiled once per batch size. Metrics are those of the log; see
    `training.step.make_train_step`.
    """
    components = model.components
    step = components.compiled_step(*batch.tokens.shape)
    placed = components.layout.place_batch(batch)
    own = jax.tree.map(jnp.copy, state)  # the program consumes its state
    next_state, metrics = step(own, placed, components.timeline.clock(int(state.step)))
    return next_state, {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}


# ---- spikes ----


@dataclass(frozen=True)
class Spike:
    """A step whose loss or update was not as it should be.

    `skips`: how many skips of data were in effect when the step was taken. None: all of the checkpoint's.
    """

    step: int
    reason: str
    skips: int | None = None
    is_rise: bool = False  # no spike, but the largest rise of the loss
    rise: float = math.nan  # of the loss above the median of the steps before it, nats per token; NaN: not computed


def find_spikes(reading: StageReading) -> list[Spike]:
    """Return the spikes of a stage of a run, in order of its log: what the guard rewound or skipped.

    Where it did neither, the step whose loss is most above the median of the steps before it. Raises UserError where
    there is no log, or it has no steps.
    """
    directory = reading.path if step_of(reading.path) is None else reading.path.parent.parent
    if not (directory / LOG).is_file():
        raise UserError(f"{reading.path} is not in a run, whose log says where its loss rose; name a step with --step")
    rows, guard = read_log(directory / LOG), reading.stage.guard
    skips = [list(skip) for skip in reading.cursor.skips]
    spikes = []
    for row in rows:
        if row["kind"] == "event" and row.get("event") == "rewind":
            skip = [row["skip_from_step"], row["skipped_sequences"]]
            step = row.get("spike", row["skip_from_step"] + guard.rewind_steps)
            spikes.append(Spike(step, str(row["reason"]), skips.index(skip) if skip in skips else None))
        elif row["kind"] == "event" and row.get("event") == "skip":
            spikes.append(Spike(row["step"] - 1, "its update was not finite and was dropped"))
    return spikes or [_largest_rise(rows, guard.window)]


def _largest_rise(rows: list[Row], window: int) -> Spike:
    losses: list[tuple[int, float]] = [(row["step"] - 1, row["loss"]) for row in rows if row["kind"] == "train"]
    if len(losses) < 2:
        raise UserError("the log has fewer than two steps; name a step with --step")
    values = np.array([loss for _, loss in losses])
    rises: list[Any] = [-np.inf]
    rises += [values[i] - np.median(values[max(0, i - window) : i]) for i in range(1, len(values))]
    largest = int(np.argmax(np.nan_to_num(np.array(rises), nan=np.inf)))
    loss, rise = values[largest], float(rises[largest])
    reason = (
        f"its loss, {loss:.4g}, is {abs(rise):.4g} {'below' if rise < 0 else 'above'} the median of the steps before it"
    )
    reason += "; no logged step rose above it" if rise < 0 else ""
    return Spike(losses[largest][0], reason, is_rise=True, rise=rise)
