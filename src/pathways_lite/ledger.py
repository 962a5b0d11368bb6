"""The clock and the accounts: how far a stage is, and what it has cost.

Counts are exact Python integers on the host (a run's FLOPs exceed what a float32 or an int32 on the device
can count). The device sees a `Clock`, a handful of scalars that are a pure function of the step.
"""

from __future__ import annotations

import bisect
import functools
import itertools
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


class DensityPhase(NamedTuple):
    """What holds from `step` on, until the next phase, of a model some of whose parameters are zero for good."""

    step: int
    density: float  # share of the prunable parameters, or of a structure's units, that is active
    active_parameters: int
    flops_per_token: int  # where zeros are skipped


@dataclass(frozen=True)
class Timeline:
    """A stage's whole way: batch-size ramp, sequence length, cost per token and budget, in closed form.

    Steps are 0-based: `tokens_before(k)` is what steps 0 .. k-1 consume, so the content of batch k and the
    clock at step k depend on k alone (PaLM section 5: batches are a function of the step number).

    `flops_per_token` and `active_parameters` are the dense model's. `phases`, the first of which begins at
    step 0, say what is active of a sparse one. Its zeros cost what other numbers do on hardware that does not skip
    them, so `flops`, budgets and the clock count them; `sparse_flops` do not.
    """

    ramp: Ramp
    seq_len: int
    flops_per_token: int
    active_parameters: int
    budget: Budget
    phases: tuple[DensityPhase, ...] = ()

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

    def sparse_flops_before(self, step: int) -> int:
        """Model FLOPs of all batches before `step` where zeros are skipped."""
        return self._sums_before(step)[1]

    def active_parameter_tokens_before(self, step: int) -> int:
        """Parameters that are active, summed over the tokens of all batches before `step`."""
        return self._sums_before(step)[0]

    def active_parameters_at(self, step: int) -> int:
        """Parameters that are active in `step`."""
        return self._all_phases[self._phase(step)].active_parameters

    def _sums_before(self, step: int) -> tuple[int, int]:
        """Active parameters, and FLOPs where zeros are skipped, summed over the tokens of all batches before `step`."""
        at = self._phase(step)
        phase, (parameters, flops) = self._all_phases[at], self._sums_at_phases[at]
        tokens = self.tokens_before(step) - self.tokens_before(phase.step)
        return parameters + tokens * phase.active_parameters, flops + tokens * phase.flops_per_token

    @functools.cached_property
    def _sums_at_phases(self) -> list[tuple[int, int]]:
        sums = [(0, 0)]
        for phase, following in itertools.pairwise(self._all_phases):
            tokens = self.tokens_before(following.step) - self.tokens_before(phase.step)
            parameters, flops = sums[-1]
            sums.append((parameters + tokens * phase.active_parameters, flops + tokens * phase.flops_per_token))
        return sums

    @property
    def _all_phases(self) -> tuple[DensityPhase, ...]:
        return self.phases or (DensityPhase(0, 1.0, self.active_parameters, self.flops_per_token),)

    def _phase(self, step: int) -> int:
        """The number of the phase that `step` is in."""
        return bisect.bisect_right(self._all_phases, step, key=lambda phase: phase.step) - 1

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
    flops: int = 0  # zeros counted
    sparse_flops: int = 0  # zeros skipped
    active_parameter_tokens: int = 0  # the integral of active parameters over tokens; / tokens = average N
    seconds: Seconds = field(default_factory=Seconds)

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            steps=self.steps + other.steps,
            tokens=self.tokens + other.tokens,
            flops=self.flops + other.flops,
            sparse_flops=self.sparse_flops + other.sparse_flops,
            active_parameter_tokens=self.active_parameter_tokens + other.active_parameter_tokens,
            seconds=self.seconds.plus(**asdict(other.seconds)),
        )

    def __sub__(self, other: Ledger) -> Ledger:
        """What is left without `other`, which is part of this one."""
        counts = {name: value - getattr(other, name) for name, value in self.counts().items()}
        return Ledger(**counts, seconds=self.seconds.plus(**{k: -v for k, v in asdict(other.seconds).items()}))

    def plus_flops(self, flops: int) -> Ledger:
        """With the cost of something else than training on tokens."""
        return replace(self, flops=self.flops + flops, sparse_flops=self.sparse_flops + flops)

    @property
    def average_active_parameters(self) -> float:
        """Active parameters averaged over the tokens trained."""
        return self.active_parameter_tokens / self.tokens if self.tokens else 0.0

    def after(self, timeline: Timeline, step: int) -> Ledger:
        """The ledger of a stage after `step` steps of `timeline`; seconds stay as they are."""
        return replace(
            self,
            steps=step,
            tokens=timeline.tokens_before(step),
            flops=timeline.flops_before(step),
            sparse_flops=timeline.sparse_flops_before(step),
            active_parameter_tokens=timeline.active_parameter_tokens_before(step),
        )

    def counts(self) -> dict[str, int]:
        """The reproducible part, as JSON."""
        return {name: value for name, value in asdict(self).items() if name != "seconds"}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ledger:
        known = {"sparse_flops": data["flops"], **data}  # ledgers of before there were sparse models lack it
        return cls(**{**known, "seconds": Seconds(**data["seconds"])})
