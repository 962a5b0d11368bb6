"""The training loop: one stage from wherever it is to its end. Reads from top to bottom.

Metrics are fetched one step late, so that the device never waits for the host. The guard therefore decides
one step late, but always on the same values; before anything is evaluated or saved, it has seen every step.

With many processes all of them run this loop, and take every turn of it together: what they decide by are the step's
metrics, which are the same everywhere, and `Stop`, which is too. Each keeps the guard's state; only the first writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import batches
from pathways_lite.distributed import coordination
from pathways_lite.distributed.monitor import Watchdog
from pathways_lite.distributed.stopping import Stop
from pathways_lite.errors import UserError
from pathways_lite.run_directory import RunDirectory
from pathways_lite.tracking.peak import machine_peak
from pathways_lite.tracking.progress import Progress
from pathways_lite.training.compile import Interrupted, StepCompiler
from pathways_lite.training.initialize import CheckpointState, initialize_stage, restore_latest
from pathways_lite.training.metrics import MetricWriter, Timer
from pathways_lite.training.setup import Setup
from pathways_lite.training.spike_guard import GuardState, Halt, Rewind, observe
from pathways_lite.training.step import TrainState


@dataclass(frozen=True)
class TrainerServices:
    """What a stage's training works with. Whoever opened them closes them."""

    compiler: StepCompiler
    checkpoints: CheckpointManager
    metric_writer: MetricWriter
    progress: Progress
    timer: Timer
    stop: Stop
    watchdog: Watchdog


class Trainer:
    """One stage in training, from `position` on."""

    def __init__(self, setup: Setup, run: RunDirectory, position: CheckpointState, tools: TrainerServices) -> None:
        self.setup, self.stage, self.timeline = setup, setup.stage, setup.timeline
        self.run, self.directory = run, run.stage(setup.stage.name)
        self.compiler, self.checkpoints, self.metric_writer = tools.compiler, tools.checkpoints, tools.metric_writer
        self.progress, self.timer, self.stop = tools.progress, tools.timer, tools.stop
        self.watchdog = tools.watchdog
        self.compiled: set[int] = set()  # batch sizes that have been trained with
        self.state: TrainState
        self.step: int  # steps begun
        self.saved_step: int
        self.cursor: DataCursor
        self.guard: GuardState
        self.pending: tuple[int, Any] | None  # the newest step and its metrics, not yet looked at
        self._adopt(position)

    # ---- the stage ----

    def train(self) -> None:
        """Train until the budget is spent.

        Raises Interrupted after a signal, and UserError where the guard halts, the disk is full, or the like.
        """
        # The process before may have stopped between this step and its evaluation.
        missing = self._evaluation_due and not coordination.run_on_primary(
            lambda: self.metric_writer.has_evaluation(self.step)
        )
        if missing and not self._evaluate():
            raise Interrupted
        while self.step < self.timeline.total_steps:
            self._train_until_rewind()
        self.checkpoints.wait()

    def _train_until_rewind(self) -> None:
        source = batches(
            self.setup.store,
            self.stage.data,
            self.timeline,
            self.stage.objective,
            first_step=self.step,
            stop_step=self.timeline.total_steps,
            skips=self.cursor.skips,
            first_sequence=self.cursor.first_sequence,
            consumed=self.cursor.consumed,
            share=self.setup.layout.batch_shard,
        )
        with closing(source):
            for batch in source:
                rewind = self._take_step(batch)
                if self.progress.peak_flops is None and rewind is None:
                    # Not before the first step, which should come soon, and not while one is running.
                    rewind = self._look_at_pending()
                    self.progress.peak_flops = machine_peak(self.stage.model.dtype)
                stopping = self.stop.should_stop()
                if rewind is None and (self._evaluation_due or self._saving_due or stopping):
                    rewind = self._look_at_pending()
                if rewind is not None:
                    self._rewind(rewind)
                    return
                if self._evaluation_due and not stopping:
                    stopping = not self._evaluate()
                if self._saving_due or stopping:
                    self._save()
                if stopping:
                    self.checkpoints.wait()
                    raise Interrupted

    @property
    def _evaluation_due(self) -> bool:
        at_end = self.step == self.timeline.total_steps
        return self.step > 0 and (self.step % self.stage.evaluation.every == 0 or at_end)

    @property
    def _saving_due(self) -> bool:
        return self.step % self.stage.saving.every == 0 or self.step == self.timeline.total_steps

    # ---- one step ----

    def _take_step(self, batch: Batch) -> Rewind | None:
        """Start the next step, then look at the one before, which is done by now."""
        layout = self.setup.layout
        train_step = self._train_step(len(batch.tokens) * layout.batch_shard.total // len(layout.batch_shard.shards))
        with self.timer.account("train"):
            batch = layout.place_batch(batch)
            self.state, metrics = train_step(self.state, batch, self.timeline.clock(self.step))
            rewind = self._look_at_pending()
        self.step += 1
        self.pending = (self.step, metrics)
        return rewind

    def _train_step(self, sequences: int) -> Any:
        """The train step for batches of this size; the ramp's later sizes are compiled when they come."""
        if sequences in self.compiled:
            return self.compiler.get(sequences, lambda: False)
        with self._pause("compile", "compiling the train step"):
            with suppress(Interrupted):
                step = self.compiler.get(sequences, lambda: self.stop.heard)
            # Some processes may have heard of a signal while they compiled, and others were done before.
            interrupted = self.stop.should_stop_now()
        if not interrupted:
            self.compiled.add(sequences)
            return step
        if self.step > self.saved_step and self._look_at_pending() is None:
            self._save()
            self.checkpoints.wait()
        raise Interrupted

    def _look_at_pending(self) -> Rewind | None:
        """Record the newest step and ask the guard about it."""
        if self.pending is None:
            return None
        (step, metrics), self.pending = self.pending, None
        with self.timer.account("train"):
            values = {name: np.asarray(value)[()] for name, value in jax.device_get(metrics).items()}
        self.watchdog.beat()
        self.metric_writer.step(step, values, self.timer.seconds)
        self.guard, decision = observe(
            self.stage.guard, self.guard, step=step - 1, loss=float(values["loss"]), ok=bool(values["ok"])
        )
        match decision:
            case Halt(reason=reason):
                newest = self.checkpoints.newest
                kept = f"the newest checkpoint is of step {newest}" if newest is not None else "nothing was saved yet"
                raise UserError(f"stage {self.stage.name!r} halted at step {step}: {reason}; {kept}")
            case Rewind() as rewind:
                return rewind
        return None

    # ---- what happens between steps ----

    def _evaluate(self) -> bool:
        """Held-out bits per byte of every domain, into the log. False where a signal cut it short."""

        def unless_stopped(done: int, total: int) -> None:
            if self.stop.should_stop():
                raise Interrupted

        self.stop.new_pace()
        with self._pause("evaluate", "evaluating"):
            params = self.setup.evaluated_params(self.state.opt_state, self.state.params, self.step)
            try:
                results = self.setup.evaluate(params, between_batches=unless_stopped)
                denoisers = self.setup.evaluate_denoisers(params, between_batches=unless_stopped)
            except Interrupted:
                return False
        self.metric_writer.evaluation(
            self.step, {name: result.to_json() for name, result in results.items()}, denoisers
        )
        return True

    def _save(self) -> None:
        """State, data position, guard and ledger as one; the disk work goes on in the background."""
        with self._pause("save", "saving"):
            self.metric_writer.sync()
            position = replace(
                self.position,
                state=self.state,
                cursor=self.cursor,
                guard=self.guard,
                seconds=self.timer.seconds,
            )
            meta = position.to_meta(self.setup)
            self._refuse_different(meta)
            self.checkpoints.save(self.step, self.state, meta)
            if coordination.is_primary():
                known = {"total_steps": self.timeline.total_steps, "corpus_tokens": self.setup.corpus_tokens}
                self.directory.write_ledger({**known, **meta["ledger"]})
        self.saved_step = self.step
        self.progress.saved(self.step)

    def _refuse_different(self, meta: dict[str, Any]) -> None:
        """Raise UserError where processes have decided differently: on metrics that should have been the same."""
        mine = json.dumps([self.step, meta["cursor"], meta["guard"], meta["lineage"]])
        if not coordination.gather_and_decide(mine, lambda all_of_them: len(set(all_of_them)) == 1):
            raise UserError(
                f"the processes do not agree about step {self.step}, its losses or its place in the data; nothing was "
                f"saved. Is the same version of everything installed on all hosts? Here: {mine}"
            )

    def _rewind(self, rewind: Rewind) -> None:
        """Back to a checkpoint before the spike; the data goes on after it (PaLM section 5.1)."""
        guard = self.guard
        sequences = rewind.skipped_sequences(self.timeline, self.cursor)
        with self._pause("save", "rewinding"):
            saved = restore_latest(self.setup, self.checkpoints, at_most=rewind.to_step, report=self.progress.note)
            self._adopt(saved or initialize_stage(self.setup, self.run, self.stop.should_stop))
            self.guard = guard.rewound_to(self.guard)
            self.cursor = self.cursor.skipping(rewind.to_step, sequences)
            # The rewound position replaces the checkpoint it came from, so that a kill from here on resumes behind
            # the rewind; a kill in between finds an older checkpoint, and spikes and rewinds once more.
            self.checkpoints.delete_after(self.step - 1)
            self.metric_writer.rewind_to(self.step, self.timer.seconds)
            self.metric_writer.event(
                "rewind", self.step, reason=rewind.reason, skip_from_step=rewind.to_step, skipped_sequences=sequences
            )
        self.progress.note(f"{rewind.reason}: back to step {self.step}; {sequences} sequences are skipped")
        self._save()

    @contextmanager
    def _pause(self, account: str, phase: str) -> Iterator[None]:
        """Something else than training, booked to `account` and shown as `phase`."""
        begin = self.timer.seconds.total
        with self.timer.account(account), self.progress.phase(phase), self.watchdog.pause(phase):
            yield
        self.metric_writer.pause(account, self.step, self.timer.seconds, begin)

    def _adopt(self, position: CheckpointState) -> None:
        """Go on from `position`."""
        self.position = position
        self.state, self.step = position.state, position.step
        self.saved_step = position.step  # what is before it is in a checkpoint, or can be had again
        self.cursor, self.guard = position.cursor, position.guard
        self.pending = None
