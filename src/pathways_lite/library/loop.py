"""A training loop of your own that takes the trainer's steps: you say what happens between them."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from pathways_lite.batch import Batch
from pathways_lite.errors import UserError
from pathways_lite.ledger import Clock
from pathways_lite.library.train import Beginning, interruption
from pathways_lite.recipe import Recipe, Stage
from pathways_lite.signals import Interrupted
from pathways_lite.training.loop import Trainer
from pathways_lite.training.replay import require_step
from pathways_lite.training.run import RunContext, open_run, stage_trainer, stages_to_train
from pathways_lite.training.spike_guard import Rewind
from pathways_lite.training.step import TrainState, TrainStep

__all__ = ["Loop", "Step"]


class Step:
    """One step that comes next: call it to take it.

    Attributes:
      number: of the step, from 0 in each stage.
      batch: this process's rows, NumPy arrays.
    """

    number: int
    batch: Batch

    def __init__(self, loop: Loop, batch: Batch) -> None:
        self.number, self.batch = loop._trainer.step, batch
        self._loop, self._is_taken = loop, False

    def __call__(self, batch: Batch | None = None) -> Mapping[str, jax.Array]:
        """Take the step, on `batch` instead of its own if one is given; return its metrics, named as in the log.

        The metrics are on the device: to look at one waits for the step. Raises UserError for a step that was taken.
        """
        if self._is_taken:
            raise UserError(f"step {self.number} was taken; the loop gives the next one")
        self._is_taken = True
        return self._loop._take(self.batch if batch is None else batch, is_own=batch is not None)

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        return f"Step({self.number}{', taken' if self._is_taken else ''})"


class Loop:
    """The training of a recipe as a loop over its steps.

    It is the trainer with you in the driver's seat: between two steps the trainer does what the recipe says (the guard,
    the log, evaluations, checkpoints), and the end of a stage writes its results. A run can be begun here and continued
    by `train`, and the other way round.

        with pl.Loop(recipe, "runs/own") as loop:
            for step in loop:
                metrics = step()

    `break` leaves steps since the last checkpoint behind, unless `save` was called. Signals are those of `train`.
    The arguments are those of `train`.
    """

    def __init__(
        self,
        recipe: Recipe | str | Path,
        out: str | Path | None = None,
        *,
        overrides: Sequence[str] = (),
        track: Sequence[str] = ("tensorboard",),
        samples: bool = True,
        page: bool = True,
    ) -> None:
        self._begin = Beginning.of(recipe, out, overrides)
        self._options = self._begin.options(track, samples=samples, page=page)
        self._stack = contextlib.ExitStack()
        self._context: RunContext | None = None
        self._steps: Generator[Step, None, None] | None = None
        self._at: Trainer | None = None
        self._rewind: Rewind | None = None  # that was decided since the step began

    def __enter__(self) -> Self:
        """Claim the run directory. Raises UserError where it is in use or holds another recipe's stages."""
        self._context = self._stack.enter_context(open_run(self._begin.recipe, self._begin.path, **self._options))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._context is not None
        if self._steps is not None:
            self._steps.close()
        self._stack.__exit__(kind, error, trace)
        if isinstance(error, Interrupted):
            self._context.note_stop()
            raise interruption(self._context.stop.exit_status) from None

    # ---- the steps ----

    def __iter__(self) -> Generator[Step, None, None]:
        """Yield the steps that are left, stage by stage; after a rewind of the guard, earlier ones again.

        Raises UserError where a step was not taken.
        """
        if self._context is None or self._steps is not None:
            raise UserError("a loop runs once, while it is open: with pl.Loop(recipe) as loop: for step in loop: ...")
        self._steps = self._run(self._context)
        return self._steps

    def _run(self, context: RunContext) -> Generator[Step, None, None]:
        for components in stages_to_train(context, self._stack):
            with stage_trainer(components, context) as trainer:
                self._at = trainer
                trainer.begin()
                while trainer.is_left:
                    with closing(trainer.read_batches()) as batches:
                        for batch in batches:
                            yield from self._one_step(trainer, batch)
                            rewind, self._rewind = self._rewind, None
                            if not trainer.conclude_step(rewind):
                                break
                trainer.end()

    def _one_step(self, trainer: Trainer, batch: Batch) -> Generator[Step, None, None]:
        before = trainer.step
        yield Step(self, batch)
        if trainer.step == before:
            raise UserError(f"step {before} was not taken: call it once in the loop's body, as in metrics = step()")

    def _take(self, batch: Batch, *, is_own: bool) -> Mapping[str, jax.Array]:
        trainer = self._trainer
        self._rewind = trainer.take_step(batch) or self._rewind
        if is_own:
            trainer.metric_writer.event("own_batch", trainer.step)
        assert trainer.pending is not None
        _, metrics, _ = trainer.pending
        return {name: value for name, value in metrics.items() if name != "usable"}

    @property
    def _trainer(self) -> Trainer:
        if self._at is None:
            raise UserError("a stage begins with the first step: ask in the body of `for step in loop`")
        return self._at

    # ---- what a step works on ----

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._begin.path

    @property
    def stage(self) -> Stage:
        """The stage that is trained, resolved."""
        return self._trainer.stage

    @property
    def state(self) -> TrainState:
        """Parameters, optimizer state, random key and step. The next step consumes its arrays: copy what you keep."""
        return self._trainer.state

    @state.setter
    def state(self, state: TrainState) -> None:
        """Continue from another state of the same shapes; the log says so, as the recipe does not."""
        self._settle()
        self._trainer.state = state
        self._trainer.metric_writer.event("own_state", self._trainer.step)

    @property
    def params(self) -> Any:
        """The parameters to evaluate: those of the state, or the average that some optimizers keep."""
        trainer = self._trainer
        return trainer.components.evaluated_params(trainer.state.opt_state, trainer.state.params, trainer.step)

    def batch(self, step: int) -> Batch:
        """Return the whole batch of any step of the stage. Raises UserError for a step that it does not have."""
        trainer = self._trainer
        require_step(trainer.spec, step)
        return trainer.spec.stream(trainer.cursor).batch_at(step)

    def clock(self, step: int) -> Clock:
        """Return the clock of a step, by which schedules go."""
        require_step(self._trainer.spec, step)
        return self._trainer.timeline.clock(step)

    @property
    def step_function(self) -> TrainStep:
        """The pure function (state, batch, clock) -> (state, metrics) of a step, not compiled."""
        return self._trainer.components.step_function

    # ---- between steps ----

    def evaluate(self) -> dict[str, Any]:
        """Evaluate now, besides what the recipe says: `domains`, and `denoisers` and `tasks` if there are any."""
        return self._trainer.components.evaluate(self.params, lambda done, total: None)

    def save(self) -> Path | None:
        """Write a checkpoint now, and return it; None where the guard goes back to before this step instead.

        Raises UserError where the state is not finite.
        """
        trainer = self._trainer
        self._settle()
        if self._rewind is not None:
            return None
        trainer.save()
        trainer.checkpoints.wait()
        return trainer.checkpoints.path(trainer.step)

    def _settle(self) -> None:
        """Let the guard see every step that was taken."""
        self._rewind = self._trainer.look_at_pending() or self._rewind
