"""The training loop: train one stage from its current state to its end. Read it from top to bottom.

Metrics are fetched one step late, so that the device never waits for the host. The guard therefore decides one step
late, but always on the same values; before an evaluation or a save, it has seen every step.

With many processes all of them run this loop and make every decision together, from the step's metrics and from `Stop`,
which are the same everywhere. Each keeps the guard's state; only the primary process writes.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.checkpoints.finite import join_some, non_finite_arrays
from pathways_lite.data.order import DataCursor
from pathways_lite.distributed import coordination
from pathways_lite.distributed.monitor import Watchdog
from pathways_lite.distributed.stopping import AFTER_COMPILING, NOTHING_TO_SAVE, Stop
from pathways_lite.errors import UserError
from pathways_lite.provenance import Provenance
from pathways_lite.run_directory import RunDirectory
from pathways_lite.signals import Interrupted
from pathways_lite.tracking.peak import machine_peak
from pathways_lite.tracking.progress import Progress
from pathways_lite.training.compile import StepCompiler
from pathways_lite.training.components import Components
from pathways_lite.training.early_stopping import StoppingState, describe_stop, observe_evaluation
from pathways_lite.training.hooks import TrainerHooks
from pathways_lite.training.initialize import CheckpointState, initialize_stage, restore_latest
from pathways_lite.training.metrics import MetricWriter, Timer
from pathways_lite.training.spike_guard import GuardState, Halt, Rewind, observe
from pathways_lite.training.step import TrainState


@dataclass(frozen=True)
class TrainerServices:
    """What training a stage needs beside its components. Whoever opened them closes them."""

    compiler: StepCompiler
    checkpoints: CheckpointManager
    metric_writer: MetricWriter
    progress: Progress
    timer: Timer
    stop: Stop
    watchdog: Watchdog
    hooks: TrainerHooks
    provenance: Provenance


class Trainer:
    """Trains one stage, from the state `start` on."""

    def __init__(
        self, components: Components, run: RunDirectory, start: CheckpointState, services: TrainerServices
    ) -> None:
        self.components, self.spec = components, components.spec
        self.stage, self.timeline = components.stage, components.timeline
        self.run, self.directory = run, run.stage(self.stage.name)
        self.compiler, self.checkpoints = services.compiler, services.checkpoints
        self.metric_writer, self.progress, self.timer = services.metric_writer, services.progress, services.timer
        self.stop, self.watchdog, self.hooks = services.stop, services.watchdog, services.hooks
        self.compiled: set[tuple[int, int]] = set()  # batch sizes and sequence lengths that have been trained with
        self.statistics_fns: dict[tuple[int, int], Any] = {}  # compiled, by the same
        self.provenance = services.provenance
        self.state: TrainState
        self.step: int  # steps started
        self.saved_step: int
        self.cursor: DataCursor
        self.guard: GuardState
        self.stopping: StoppingState
        self.pending: tuple[int, Any, Any] | None  # the newest step, its metrics and statistics, not looked at yet
        self._adopt(start)

    # ---- the stage ----

    def train(self) -> None:
        """Train until the budget is spent.

        Raises Interrupted after a signal, and UserError where the guard halts, the disk is full, or the like.
        """
        self.begin()
        while self.is_left:
            self._train_until_rewind()
        self.end()

    def begin(self) -> None:
        """Evaluate what an earlier process was stopped before. Raises Interrupted after a signal."""
        missing = self._evaluation_due and not coordination.run_on_primary(
            lambda: self.metric_writer.has_evaluation(self.step)
        )
        if missing and not self._evaluate():
            raise Interrupted
        self._observe_missed_evaluation()

    @property
    def is_left(self) -> bool:
        """Whether there are steps to take."""
        return self.step < self._last_step

    def end(self) -> None:
        """Wait for the last checkpoint. Raises UserError where the model is of no use."""
        self.checkpoints.wait()
        if damaged := coordination.run_on_primary(lambda: self.metric_writer.non_finite_domains()):
            raise UserError(
                f"stage {self.stage.name!r} is trained, but its held-out loss is not finite on {join_some(damaged)}: "
                "this model is of no use. Its checkpoints are kept; train again with a lower optimizer.learning_rate"
            )

    def _train_until_rewind(self) -> None:
        with closing(self.read_batches()) as batches:
            for batch in batches:
                if not self.conclude_step(self.take_step(batch)):
                    return

    def read_batches(self) -> Generator[Batch, None, None]:
        """Yield this process's rows of the batches that come next; close it to stop the reading."""
        stream = self.spec.stream(self.cursor, shard=self.components.layout.batch_shard)
        return stream.read(self.step, self._last_step)

    def conclude_step(self, rewind: Rewind | None) -> bool:
        """Do what is due after a step: look at its metrics, evaluate, save; `rewind` was decided already.

        Returns whether the next batch is the one to go on with: False after a rewind, and at the end of the stage.
        Raises Interrupted after a signal; the step is saved then.
        """
        if self.progress.peak_flops is None and rewind is None:
            # Not before the first step, which should start soon, and not while a step is running.
            rewind = self.look_at_pending()
            self.progress.peak_flops = machine_peak(self.stage.model.dtype)
        stopping = self.stop.should_stop()
        if rewind is None and (self._evaluation_due or self._saving_due or stopping):
            rewind = self.look_at_pending()
        if rewind is not None:
            self._rewind(rewind)
            return False
        if self._evaluation_due and not stopping:
            stopping = not self._evaluate()
        if self._saving_due or stopping:
            self.save()
        if stopping:
            self.checkpoints.wait()
            raise Interrupted
        return self.is_left

    @property
    def _last_step(self) -> int:
        """The step that ends the stage: that of its budget, or the one at which it stopped early."""
        return self.stopping.stopped_at or self.timeline.total_steps

    @property
    def _evaluation_due(self) -> bool:
        if not self.step:
            return bool(self.stage.evaluation.at_start)
        return self.step % self.stage.evaluation.every == 0 or self.step == self._last_step

    @property
    def _saving_due(self) -> bool:
        return self.step % self.stage.saving.every == 0 or self.step == self._last_step

    # ---- one step ----

    def take_step(self, batch: Batch) -> Rewind | None:
        """Start the next step, then look at the one before, which is done by now."""
        layout = self.components.layout
        rows, seq_len = batch.tokens.shape
        sequences = rows * layout.batch_shard.total // len(layout.batch_shard.shards)
        train_step = self._train_step(sequences, seq_len)
        batch = self.hooks.before_step(self.stage.name, self.step, batch)
        statistics_fn = self._statistics_fn(sequences, seq_len)
        with self.timer.account("train"):
            batch, clock = layout.place_batch(batch), self.timeline.clock(self.step)
            statistics = statistics_fn(self.state, batch, clock) if statistics_fn else {}  # before the state is donated
            self.state, metrics = train_step(self.state, batch, clock)
            rewind = self.look_at_pending()
        self.step += 1
        self.pending = (self.step, metrics, statistics)
        self.hooks.after_step(self.stage.name, self.step)
        return rewind

    def _train_step(self, sequences: int, seq_len: int) -> Any:
        """Return the compiled step for a batch; later shapes of a ramp or a warm-up are compiled when reached."""
        if (sequences, seq_len) in self.compiled:
            return self.compiler.get(sequences, lambda: False, seq_len)
        consequence = NOTHING_TO_SAVE if self.step == self.saved_step else self.stop.consequence
        with self._pause("compile", "compiling the train step"), self.stop.instead(consequence):
            with suppress(Interrupted):
                step = self.compiler.get(sequences, lambda: self.stop.pending_signal, seq_len)
            # Some processes may have received a signal while they compiled, and others were done before.
            interrupted = self.stop.should_stop_now()
        if not interrupted:
            self.compiled.add((sequences, seq_len))
            self.progress.begin_training()
            return step
        if self.step > self.saved_step and self.look_at_pending() is None:
            self.save()
            self.checkpoints.wait()
        raise Interrupted

    def _statistics_fn(self, sequences: int, seq_len: int) -> Any:
        """Return the compiled statistics if the next step is to have them; None otherwise."""
        if self.stage.statistics is None or (self.step + 1) % self.stage.statistics.every:
            return None
        if (shape := (sequences, seq_len)) not in self.statistics_fns:
            with self._pause("compile", "compiling the statistics"), self.stop.instead(AFTER_COMPILING):
                self.statistics_fns[shape] = self.components.compile_statistics(*shape)
        return self.statistics_fns[shape]

    def look_at_pending(self) -> Rewind | None:
        """Record the newest step and ask the guard about it."""
        if self.pending is None:
            return None
        (step, metrics, statistics), self.pending = self.pending, None
        with self.timer.account("train"):
            metrics, statistics = jax.device_get((metrics, statistics))
            values = {name: np.asarray(value)[()] for name, value in metrics.items()}
        usable = bool(values.pop("usable"))
        self.watchdog.beat()
        self.metric_writer.step(step, values, self.timer.seconds)
        if statistics:
            self.metric_writer.statistics(step, statistics)
        self.guard, decision = observe(
            self.stage.guard,
            self.guard,
            step=step - 1,
            loss=float(values["loss"]),
            ok=bool(values["ok"]),
            usable=usable,
        )
        match decision:
            case Halt(reason=reason):
                saved = self._describe_saved(step - self.guard.dropped_in_a_row)
                raise UserError(f"stage {self.stage.name!r} halted at step {step}: {reason}; {saved}")
            case Rewind() as rewind:
                return rewind
        return None

    def _describe_saved(self, step: int) -> str:
        """Say which checkpoint is the newest one of `step` or before."""
        self.checkpoints.wait()
        newest = max((saved for saved in self.checkpoints.steps() if saved <= step), default=None)
        if newest is None:
            return f"nothing was saved before step {step + 1}"
        return f"the newest checkpoint is of step {newest} ({self.checkpoints.path(newest)})"

    # ---- between steps ----

    def _evaluate(self) -> bool:
        """Evaluate held-out documents and tasks, and log the results. Returns False where a signal cut it short."""

        def interrupt_if_stopped(done: int, total: int) -> None:
            if self.stop.should_stop():
                raise Interrupted

        self.stop.reset_interval()
        with self._pause("evaluate", "evaluating"):
            values: dict[str, Any] = {}
            try:
                for prefix, params in self._evaluated_params():
                    results = self.components.evaluate(params, interrupt_if_stopped)
                    values |= {f"{prefix}{name}": result for name, result in results.items()}
            except Interrupted:
                return False
        self.metric_writer.evaluation(self.step, values)
        self._observe_evaluation(values["domains"])
        self.hooks.after_evaluation(self.stage.name, self.step)
        return True

    def _evaluated_params(self) -> Iterator[tuple[str, Any]]:
        """Yield the parameters to evaluate and, where there is one, their moving average, with prefixes of log keys."""
        state = self.state
        yield "", self.components.evaluated_params(state.opt_state, state.params, self.step)
        if state.average:
            yield (
                "average_",
                self.components.averaged_params(state.average, state.opt_state, state.params, self.step),
            )

    def _observe_evaluation(self, domains: Mapping[str, Any]) -> None:
        """Decide whether the stage ends here, on held-out results that are the same in all processes."""
        config = self.stage.early_stopping
        if config is None or self.step in (0, self.timeline.total_steps):
            return
        self.stopping = observe_evaluation(config, self.stopping, self.step, domains)
        if self.stopping.stopped_at is not None:
            reason = describe_stop(config, self.stopping)
            self.metric_writer.stop_early(self.step, reason=reason, best_step=self.stopping.best_step)
            self.progress.print_note(f"stage {self.stage.name!r} {reason}")

    def _observe_missed_evaluation(self) -> None:
        """Observe the evaluation of a checkpoint's step that an earlier process was stopped in, or right after."""
        if self.stage.early_stopping is None or not self._evaluation_due:
            return
        if self.stopping.step < self.step:
            self._observe_evaluation(coordination.run_on_primary(lambda: self.metric_writer.last_evaluation)["domains"])
        if self.stopping.stopped_at is not None and self.start.stopping.stopped_at is None:
            self.checkpoints.delete_after(self.step - 1)  # it does not say that the stage ends with it
            self.save()

    def save(self) -> None:
        """Save state, data cursor, guard and ledger as one; the disk is written in the background.

        Raises UserError where the state is not finite: a checkpoint is a state that training can continue from.
        """
        with self._pause("save", "saving"):
            if damaged := non_finite_arrays((self.state.params, self.state.opt_state, self.state.average)):
                raise UserError(
                    f"stage {self.stage.name!r} halted at step {self.step}: NaN or infinities in {join_some(damaged)}, "
                    f"although the losses are finite; this state was not saved, and "
                    f"{self._describe_saved(self.step)}. The same command continues from there. Where it ends the same "
                    "way, change the optimizer's options; otherwise suspect the hardware"
                )
            self.metric_writer.sync()
            current = replace(
                self.start,
                state=self.state,
                cursor=self.cursor,
                guard=self.guard,
                stopping=self.stopping,
                seconds=self.timer.seconds,
                log=self.metric_writer.log_mark,
                unlogged=self.metric_writer.unlogged,
            )
            meta = current.to_meta(self.spec, self.provenance)
            self._require_agreement(meta)
            # While updates are dropped, checkpoints from before it are kept: whatever broke may be in this one.
            self.checkpoints.save(
                self.step,
                self.state,
                meta,
                companions=self.spec.companions if coordination.is_primary() else None,
                rotate=not self.guard.dropped_in_a_row,
            )
            if coordination.is_primary():
                totals = {"total_steps": self._last_step, "corpus_tokens": self.spec.corpus_tokens}
                self.directory.write_ledger({**totals, **meta["ledger"]})
        self.saved_step = self.step
        self.progress.show_save(self.step)
        self.hooks.after_save(self.stage.name, self.step)

    def _require_agreement(self, meta: dict[str, Any]) -> None:
        """Raise UserError where processes decided differently, from metrics that should have been the same."""
        decisions = json.dumps([self.step, meta["cursor"], meta["guard"], meta["lineage"], meta.get("early_stopping")])
        if not coordination.gather_and_decide(decisions, lambda gathered: len(set(gathered)) == 1):
            raise UserError(
                f"the processes do not agree about step {self.step}, its losses or its place in the data; nothing was "
                f"saved. Is the same version of everything installed on all hosts? Here: {decisions}"
            )

    def _rewind(self, rewind: Rewind) -> None:
        """Restore a checkpoint from before the spike; the data continues after the spike (PaLM section 5.1)."""
        guard = self.guard
        sequences = rewind.skipped_sequences(self.timeline, self.cursor)
        with self._pause("save", "rewinding"):
            saved = restore_latest(
                self.components, self.checkpoints, at_most=rewind.to_step, report=self.progress.print_note
            )
            self._adopt(saved or initialize_stage(self.components, self.run, self.stop.should_stop))
            self.guard = guard.rewound_to(self.guard)
            self.cursor = self.cursor.with_skip(rewind.to_step, sequences)
            # The rewound state replaces the checkpoint it came from, so that after a kill from here on the run resumes
            # after the rewind; a kill before that leaves an older checkpoint, and the run spikes and rewinds again.
            self.checkpoints.delete_after(self.step - 1)
            self.metric_writer.rewind_to(self.start, self.timer.seconds)
            self.metric_writer.event(
                "rewind",
                self.step,
                reason=rewind.reason,
                spike=rewind.spike,
                skip_from_step=rewind.to_step,
                skipped_sequences=sequences,
            )
        self.progress.print_note(f"{rewind.reason}: back to step {self.step}; {sequences} sequences are skipped")
        self.save()

    @contextmanager
    def _pause(self, account: str, phase: str) -> Iterator[None]:
        """Run something other than training, with its time on `account` and `phase` on the display."""
        begin = self.timer.seconds.total
        with self.timer.account(account), self.progress.show_phase(phase), self.watchdog.pause(phase):
            yield
        self.metric_writer.pause(account, self.step, self.timer.seconds, begin)

    def _adopt(self, start: CheckpointState) -> None:
        """Continue from `start`."""
        self.start = start
        self.state, self.step = start.state, start.step
        self.saved_step = start.step  # everything before it is in a checkpoint, or can be made again
        self.cursor, self.guard, self.stopping = start.cursor, start.guard, start.stopping
        self.pending = None
