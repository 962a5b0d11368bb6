"""What a run did, again: the batch that a step read, the state of a checkpoint, and the step from it to the next.

All three are exact. A batch is a pure function of the step, and a step of the state and its batch, so a step from the
checkpoint of step k gives the state of step k + 1, bit for bit on the same machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.checkpoints import restore
from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import DataStream
from pathways_lite.errors import UserError
from pathways_lite.run_directory import RunDirectory
from pathways_lite.tracking.log import LOG, Row, read_log
from pathways_lite.training.load import TrainedModel, load_model
from pathways_lite.training.step import TrainState


def load_stage(path: str | Path, stage: str | None = None) -> TrainedModel:
    """Load the newest checkpoint at or below `path`, or of one stage of the run there, without reading its arrays.

    Raises UserError where there is none.
    """
    if stage is not None:
        run = RunDirectory(Path(path))
        names = [item.name for item in run.recipe().stages]
        if stage not in names:
            raise UserError(f"{path} has no stage {stage!r}; it has: {', '.join(names)}")
        path = run.stage(stage).path
    return load_model(path, examined=False)


# ---- data ----


def data_stream(model: TrainedModel, corpus: str | None = None, *, skips: int | None = None) -> DataStream:
    """Return the batches of the model's stage by step, as it has read them up to this checkpoint.

    `corpus`: the same corpus at another place. `skips`: how many of the skips of data to count, all by default; less
    gives what was read before a rewind. Raises UserError for another corpus.
    """
    store = model.open_corpus(corpus)
    if store.fingerprint != (model.stage.data.fingerprint or store.fingerprint):
        raise UserError(
            f"{store.address} is not the corpus that {model.path} was trained on: its fingerprint is "
            f"{store.fingerprint[:12]}, not {str(model.stage.data.fingerprint)[:12]}"
        )
    cursor = DataCursor.from_json(model.manifest.meta["cursor"])
    cursor = replace(cursor, skips=cursor.skips if skips is None else cursor.skips[:skips])
    stage = model.stage
    return DataStream(store, stage.data, model.spec.timeline, stage.objective, cursor)


def batch_at(model: TrainedModel, step: int, corpus: str | None = None) -> Batch:
    """Return the batch that `step` of the model's stage reads, NumPy arrays; steps count from 0.

    Step k leads from the checkpoint of step k to that of step k + 1. Raises UserError for a step that the stage does
    not have, and where the corpus is not there.
    """
    require_step(model, step)
    return data_stream(model, corpus).batch_at(step)


def require_step(model: TrainedModel, step: int) -> None:
    """Raise UserError for a step that the stage does not have."""
    if not 0 <= step < (total := model.spec.timeline.total_steps):
        raise UserError(f"stage {model.stage.name!r} has the steps 0 to {total - 1:,}; there is no step {step:,}")


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
    step = components.compiled_step(len(batch.tokens))
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


def find_spikes(model: TrainedModel, stage_directory: Path) -> list[Spike]:
    """Return the spikes of the model's stage, in order of the log: what the guard rewound or skipped.

    Where it did neither, the step whose loss is most above the median of the steps before it. Raises UserError where
    the log has no steps.
    """
    rows = read_log(stage_directory / LOG)
    skips = [list(skip) for skip in DataCursor.from_json(model.manifest.meta["cursor"]).skips]
    spikes = []
    for row in rows:
        if row["kind"] == "event" and row.get("event") == "rewind":
            skip = [row["skip_from_step"], row["skipped_sequences"]]
            step = row.get("spike", row["skip_from_step"] + model.stage.guard.rewind_steps)
            spikes.append(Spike(step, str(row["reason"]), skips.index(skip) if skip in skips else None))
        elif row["kind"] == "event" and row.get("event") == "skip":
            spikes.append(Spike(row["step"] - 1, "its update was not finite and was dropped"))
    return spikes or [_largest_rise(rows, model.stage.guard.window)]


def _largest_rise(rows: list[Row], window: int) -> Spike:
    losses: list[tuple[int, float]] = [(row["step"] - 1, row["loss"]) for row in rows if row["kind"] == "train"]
    if len(losses) < 2:
        raise UserError("the log has fewer than two steps; name a step with --step")
    values = np.array([loss for _, loss in losses])
    rises: list[Any] = [-np.inf]
    rises += [values[i] - np.median(values[max(0, i - window) : i]) for i in range(1, len(values))]
    largest = int(np.argmax(np.nan_to_num(np.array(rises), nan=np.inf)))
    reason = (
        f"its loss, {values[largest]:.4g}, is further above that of the steps before it than at any other logged step: "
        f"by {rises[largest]:.4g}"
    )
    return Spike(losses[largest][0], reason)
