"""The spike guard: what happens when a loss is not finite, or far above its recent level.

A state machine on the host. It sees every step's (loss, ok) once and in order, usually one step late, when the device
has already started the next step; a decision to rewind discards that step. Its state is JSON and part of the checkpoint
of the last step that it has seen, so a resumed run decides as an uninterrupted one.

An update from a loss or gradient that is not finite is dropped by the train step itself, whatever the policy. Where
the update itself is not finite, the parameters are lost when it is seen: the run halts or rewinds, and such a state is
never saved. The policies:

halt    stop at the first spike or loss that is not finite.
skip    continue. A finite spike has already changed the parameters when it is seen, so it cannot be undone: it is
        counted in `spikes`. A whole window of dropped updates in a row does halt: nothing is being trained.
rewind  PaLM (arXiv 2204.02311, section 5.1): go back about 100 steps and skip the batches before and during the
        spike.
"""

from __future__ import annotations

import math
import statistics
from typing import Any, NamedTuple, Self

from pathways_lite.data.order import DataCursor
from pathways_lite.ledger import Timeline
from pathways_lite.recipe import SpikeGuard


class Proceed(NamedTuple):
    """Nothing to do."""


class Halt(NamedTuple):
    """Stop the run; `reason` is a sentence for its user."""

    reason: str


class Rewind(NamedTuple):
    """Restore a state from `to_step` or earlier, and skip data from there on.

    `skip` is (step, batches): what the recipe asks to skip, and from which step on; `skipped_sequences` computes the
    number. It starts at `to_step` even where the newest checkpoint is older: the steps between are then repeated
    unchanged, and the result does not depend on how often checkpoints are written.
    """

    to_step: int
    spike: int  # the step of the spike
    skip: tuple[int, int]
    reason: str

    def skipped_sequences(self, timeline: Timeline, cursor: DataCursor) -> int:
        """Return the number of sequences to skip at `to_step`, given the `cursor` from before the rewind.

        It is large enough to pass the spike's own batch, so that neither a short `skip_batches` nor a growing batch
        size nor an earlier skip can bring back a batch from around a spike.
        """
        step, batches = self.skip
        read = cursor.end_example(timeline, self.spike + 1) - cursor.begin_example(timeline, self.to_step)
        tokens = batches * timeline.sequences_at(step) * timeline.seq_len_at(step)
        return max(-(-tokens // timeline.seq_len), read)


Decision = Proceed | Halt | Rewind


class GuardState(NamedTuple):
    """The guard's memory."""

    step: int = 0  # the next step it expects to see
    losses: tuple[float, ...] = ()  # the last finite ones, as many as the window
    dropped: int = 0  # updates that were not finite
    dropped_in_a_row: int = 0
    spikes: int = 0  # finite spikes that stayed in the parameters
    rewinds: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "losses": list(self.losses)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "losses": tuple(data["losses"])})

    def rewound_to(self, saved: GuardState) -> GuardState:
        """Return the state after a rewind: that of the checkpoint, with the rewinds made so far."""
        return saved._replace(rewinds=self.rewinds)


def observe(
    config: SpikeGuard, state: GuardState, *, step: int, loss: float, ok: bool, usable: bool = True
) -> tuple[GuardState, Decision]:
    """Return the guard's next state and its decision on one step.

    `ok`: whether the step's update was applied; `usable`: whether the parameters after it are finite.
    """
    if step != state.step:
        raise ValueError(f"the guard expects step {state.step}, not {step}; it must see every step once, in order")
    problem, finite = _find_problem(config, state, step, loss, ok, usable), ok and usable and math.isfinite(loss)
    state = state._replace(
        step=step + 1,
        losses=(*state.losses, float(loss))[-config.window :] if finite else state.losses,
        dropped=state.dropped + (not finite),
        dropped_in_a_row=0 if finite else state.dropped_in_a_row + 1,
    )
    if problem is None:
        return state, Proceed()
    match config.policy:
        case "halt":
            return state, Halt(f"{problem}. guard.policy=rewind would go back and skip the batches around it")
        case "skip" if not usable:
            return state, Halt(f"{problem}, and guard.policy=skip cannot undo it")
        case "skip":
            state = state._replace(spikes=state.spikes + finite)
            if state.dropped_in_a_row < config.window:
                return state, Proceed()
            return state, Halt(
                f"{problem}, as at the {config.window - 1} steps before: nothing is being trained anymore. "
                f"Start from a checkpoint before these steps with a lower optimizer.learning_rate"
            )
        case "rewind":
            return _rewind(config, state, step, problem)


def _find_problem(config: SpikeGuard, state: GuardState, step: int, loss: float, ok: bool, usable: bool) -> str | None:
    """Say what is wrong with a step, or None. Without a full window there is no recent level to compare with."""
    if not math.isfinite(loss):
        return f"the loss at step {step} is {loss}"
    if not ok:
        return f"the gradient at step {step} is not finite (loss {loss:.4g})"
    if not usable:
        return (
            f"the update of step {step} is not finite, although its loss ({loss:.4g}) and gradient are: the state of "
            "the optimizer is damaged, or its options divide by zero (epsilon=0)"
        )
    if config.threshold is None or len(state.losses) < config.window:
        return None
    level = statistics.median(state.losses)
    if loss <= level + config.threshold:
        return None
    return (
        f"the loss at step {step} is {loss:.4g}, more than guard.threshold={config.threshold:g} above "
        f"{level:.4g}, the median of the {config.window} steps before"
    )


def _rewind(config: SpikeGuard, state: GuardState, step: int, problem: str) -> tuple[GuardState, Halt | Rewind]:
    if state.rewinds >= config.max_rewinds:
        return state, Halt(
            f"{problem}, and all guard.max_rewinds={config.max_rewinds} rewinds are used up. "
            f"Resume from an older checkpoint with a lower optimizer.learning_rate, or allow more rewinds"
        )
    to_step = max(0, step - config.rewind_steps)
    rewind = Rewind(to_step, spike=step, skip=(to_step, config.skip_batches), reason=problem)
    return state._replace(rewinds=state.rewinds + 1), rewind
