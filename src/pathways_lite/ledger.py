"""The clock and the accounts: how far a stage is, and what it has cost.

Counts are exact Python integers on the host (a run's FLOPs exceed what a float32 or an int32 on the device
can count). The device sees a `Clock`, a handful of scalars that are a pure function of the step.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from pathways_lite.recipe import Amount, Budget, Flops, Fraction, Ramp, Steps, Tokens


class Clock(NamedTuple):
    """Where a stage is, before the step about to be taken. A pytree of scalars, passed to the train step.

    Every schedule is a function of it: of the step, of tokens, of compute, or of the share of the budget.
    """

    step: Any  # int32, steps taken
    tokens: Any  # float32, tokens consumed
    flops: Any  # float32, model FLOPs spent
    progress: Any  # float32 in [0, 1], share of the budget spent, in the budget's own unit


@dataclass(frozen=True)
class Course:
    """A stage's whole way: batch-size ramp, sequence length, cost per token and budget, in closed form.

    Steps are 0-based: `tokens_before(k)` is what steps 0 .. k-1 consume, so the content of batch k and the
    clock at step k depend on k alone (PaLM section 5: batches are a function of the step number).
    """

    ramp: Ramp
    seq_len: int
    flops_per_token: int
    active_parameters: int
    budget: Budget

    def sequences_at(self, step: int) -> int:
        """Sequences in the batch of `step`."""
        return [n for start, n in self.ramp.steps if start <= step][-1]

    def sequences_before(self, step: int) -> int:
        """Sequences in all batches before `step`."""
        ends = [start for start, _ in self.ramp.steps[1:]] + [step]
        spans = zip(self.ramp.steps, ends, strict=True)
        return sum(n * (min(end, step) - start) for (start, n), end in spans if start < step)

    def tokens_before(self, step: int) -> int:
        """Tokens in all batches before `step`."""
        return self.sequences_before(step) * self.seq_len

    def flops_before(self, step: int) -> int:
        """Model FLOPs of all batches before `step`."""
        return self.tokens_before(step) * self.flops_per_token

    def steps_for(self, amount: Amount) -> int:
        """The fewest steps that reach `amount`."""
        match amount:
            case Steps(n=n):
                return n
            case Fraction(n=share):
                return self._first_step(lambda k: self.progress(k) >= share)
            case Tokens(n=n):
                return self._first_step(lambda k: self.tokens_before(k) >= n)
            case Flops(n=n):
                return self._first_step(lambda k: self.flops_before(k) >= n)

    @property
    def total_steps(self) -> int:
        """Steps in the whole stage, at least one."""
        return max(1, self.steps_for(self.budget))

    def progress(self, step: int) -> float:
        """Share of the budget spent before `step`, from 0 to 1."""
        match self.budget:
            case Steps(n=n):
                spent: float = step / n
            case Tokens(n=n):
                spent = self.tokens_before(step) / n if n else 1.0
            case Flops(n=f):
                spent = self.flops_before(step) / f if f else 1.0
        return min(1.0, spent)

    def clock(self, step: int) -> Clock:
        """The clock before `step`, as NumPy scalars."""
        return Clock(
            step=np.int32(step),
            tokens=np.float32(self.tokens_before(step)),
            flops=np.float32(self.flops_before(step)),
            progress=np.float32(self.progress(step)),
        )

    @staticmethod
    def _first_step(reached: Any) -> int:
        """Smallest k for which the monotone `reached(k)` holds."""
        high = 1
        while not reached(high):
            high *= 2
        low = 0
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) else (middle + 1, high)
        return low


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds by what they were spent on. Not reproducible, unlike every other account."""

    train: float = 0.0
    compile: float = 0.0
    save: float = 0.0
    evaluate: float = 0.0
    other: float = 0.0

    @property
    def total(self) -> float:
        return math.fsum(asdict(self).values())

    @property
    def goodput(self) -> float:
        """Share of the time that was spent training."""
        return self.train / self.total if self.total else 0.0

    def plus(self, **seconds: float) -> Seconds:
        """With some more seconds, e.g. `plus(save=1.5)`."""
        return replace(self, **{name: getattr(self, name) + value for name, value in seconds.items()})


@dataclass(frozen=True)
class Ledger:
    """What has been spent. Ledgers add up along a chain of stages."""

    steps: int = 0
    tokens: int = 0
    flops: int = 0
    active_parameter_tokens: int = 0  # the integral of active parameters over tokens; / tokens = average N
    seconds: Seconds = field(default_factory=Seconds)

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            steps=self.steps + other.steps,
            tokens=self.tokens + other.tokens,
            flops=self.flops + other.flops,
            active_parameter_tokens=self.active_parameter_tokens + other.active_parameter_tokens,
            seconds=self.seconds.plus(**asdict(other.seconds)),
        )

    @property
    def average_active_parameters(self) -> float:
        """Active parameters averaged over the tokens trained."""
        return self.active_parameter_tokens / self.tokens if self.tokens else 0.0

    def after(self, course: Course, step: int) -> Ledger:
        """The ledger of a stage after `step` steps of `course`; seconds stay as they are."""
        tokens = course.tokens_before(step)
        return replace(
            self,
            steps=step,
            tokens=tokens,
            flops=course.flops_before(step),
            active_parameter_tokens=tokens * course.active_parameters,
        )

    def counts(self) -> dict[str, int]:
        """The reproducible part, as JSON."""
        return {name: value for name, value in asdict(self).items() if name != "seconds"}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ledger:
        return cls(**{**data, "seconds": Seconds(**data["seconds"])})
