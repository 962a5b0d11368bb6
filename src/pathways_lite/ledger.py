"""Clock and accounts: the progress of a stage, and what it has cost.

Counts are exact Python integers on the host, because a run's FLOPs exceed what a float32 or an int32 on the device can
count. The device sees a `Clock`, a few scalars that are a pure function of the step.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from pathways_lite.recipe import Amount, Flops, Fraction, Ramp, ResolvedBudget, Steps, Tokens


class Clock(NamedTuple):
    """The progress of a stage before the next step, as a pytree of scalars that is passed to the train step.

    Every schedule is a function of it: of steps, tokens, compute, or the fraction of the budget.
    """

    step: Any  # int32, steps taken
    tokens: Any  # float32, tokens consumed
    flops: Any  # float32, model FLOPs spent
    progress: Any  # float32 in [0, 1], fraction of the budget spent, in the budget's own unit


class DensityPhase(NamedTuple):
    """Density and cost of a sparse model from `step` until the next phase."""

    step: int
    density: float  # fraction of the prunable parameters, or of a structure's units, that is active
    active_parameters: int
    flops_per_token: int  # with zeros skipped


class LengthPhase(NamedTuple):
    """Sequence length, and its cost, from `step` until the next phase of a sequence-length warm-up."""

    step: int
    seq_len: int
    flops_per_token: int


class BatchPhase(NamedTuple):
    """The batches from `step` until the next phase, and what all batches before it count."""

    step: int
    sequences: int
    seq_len: int
    flops_per_token: int
    tokens_before: int
    flops_before: int

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.sequences * self.seq_len


@dataclass(frozen=True)
class Timeline:
    """The whole schedule of a stage in closed form: batch-size ramp, sequence length, cost per token and budget.

    Steps are 0-based: `tokens_before(k)` is what steps 0 .. k-1 consume, so the content of batch k and the clock at
    step k depend on k alone (PaLM section 5: batches are a function of the step number).

    `lengths` are the phases of a sequence-length warm-up, the last of which has `seq_len`. A batch then has the tokens
    that the ramp's sequences of `seq_len` have or, with `shorter_batches`, the ramp's number of sequences.

    `flops_per_token` and `active_parameters` are the dense model's, at `seq_len`. `phases`, the first of which starts
    at step 0, say how much of a sparse model is active. Hardware that does not skip zeros computes with them like with
    other numbers, so `flops`, budgets and the clock count them; `sparse_flops` does not.
    """

    ramp: Ramp
    seq_len: int
    flops_per_token: int
    active_parameters: int
    budget: ResolvedBudget
    phases: tuple[DensityPhase, ...] = ()
    lengths: tuple[LengthPhase, ...] = ()
    shorter_batches: bool = False

    def sequences_at(self, step: int) -> int:
        """Return the number of sequences in the batch of `step`, of `seq_len_at(step)` tokens each."""
        return self._batch_phase(step).sequences

    def seq_len_at(self, step: int) -> int:
        """Return the number of tokens of each sequence in the batch of `step`."""
        return self._batch_phase(step).seq_len

    def sequences_before(self, step: int) -> int:
        """Return the number of sequences of `seq_len` tokens that all batches before `step` have read, or begun."""
        return -(-self.tokens_before(step) // self.seq_len)

    def tokens_before(self, step: int) -> int:
        """Return the number of tokens in all batches before `step`."""
        phase = self._batch_phase(step)
        return phase.tokens_before + (step - phase.step) * phase.tokens

    def flops_before(self, step: int) -> int:
        """Return the model FLOPs of all batches before `step`."""
        phase = self._batch_phase(step)
        return phase.flops_before + (step - phase.step) * phase.tokens * phase.flops_per_token

    @functools.cached_property
    def batch_phases(self) -> list[BatchPhase]:
        """The intervals of steps whose batches have one shape, in order; the first starts at step 0."""
        lengths = self.lengths or (LengthPhase(0, self.seq_len, self.flops_per_token),)
        phases: list[BatchPhase] = []
        for step in sorted({start for start, *_ in (*self.ramp.steps, *lengths)}):
            length = [phase for phase in lengths if phase.step <= step][-1]
            sequences = self.ramp.sequences_at(step)
            if not self.shorter_batches:
                sequences *= self.seq_len // length.seq_len
            tokens = flops = 0
            if phases:
                before = phases[-1]
                tokens = before.tokens_before + (step - before.step) * before.tokens
                flops = before.flops_before + (step - before.step) * before.tokens * before.flops_per_token
            phases.append(BatchPhase(step, sequences, length.seq_len, length.flops_per_token, tokens, flops))
        return phases

    def _batch_phase(self, step: int) -> BatchPhase:
        """Return the phase that contains `step`."""
        return self.batch_phases[bisect.bisect_right(self.batch_phases, step, key=lambda phase: phase.step) - 1]

    def sparse_flops_before(self, step: int) -> int:
        """Return the model FLOPs of all batches before `step`, with zeros skipped."""
        return self._sparse_sums_before(step)[1]

    def active_parameter_tokens_before(self, step: int) -> int:
        """Return the sum of active parameters over the tokens of all batches before `step`."""
        return self._sparse_sums_before(step)[0]

    def active_parameters_at(self, step: int) -> int:
        """Return the number of parameters that are active in `step`."""
        return self._all_phases[self._phase_index(step)].active_parameters

    def _sparse_sums_before(self, step: int) -> tuple[int, int]:
        """Return active parameters, and FLOPs with zeros skipped, summed over all tokens before `step`."""
        if not self.phases:
            return self.tokens_before(step) * self.active_parameters, self.flops_before(step)
        index = self._phase_index(step)
        phase, (parameters, flops) = self._all_phases[index], self._sparse_sums_at_phases[index]
        tokens = self.tokens_before(step) - self.tokens_before(phase.step)
        return parameters + tokens * phase.active_parameters, flops + tokens * phase.flops_per_token

    @functools.cached_property
    def _sparse_sums_at_phases(self) -> list[tuple[int, int]]:
        """`_sparse_sums_before` the first step of each phase."""
        sums = [(0, 0)]
        for phase, following in itertools.pairwise(self._all_phases):
            tokens = self.tokens_before(following.step) - self.tokens_before(phase.step)
            parameters, flops = sums[-1]
            sums.append((parameters + tokens * phase.active_parameters, flops + tokens * phase.flops_per_token))
        return sums

    @property
    def _all_phases(self) -> tuple[DensityPhase, ...]:
        return self.phases or (DensityPhase(0, 1.0, self.active_parameters, self.flops_per_token),)

    def _phase_index(self, step: int) -> int:
        """Return the index of the phase that contains `step`."""
        return bisect.bisect_right(self._all_phases, step, key=lambda phase: phase.step) - 1

    def steps_for(self, amount: Amount) -> int:
        """Return the smallest number of steps that reaches `amount`."""
        match amount:
            case Steps(n=n):
                return n
            case Fraction(n=fraction):
                return self._first_step(lambda k: self.progress(k) >= fraction)
            case Tokens(n=n):
                return self._first_step(lambda k: self.tokens_before(k) >= n)
            case Flops(n=n):
                return self._first_step(lambda k: self.flops_before(k) >= n)

    @property
    def total_steps(self) -> int:
        """Number of steps in the stage, at least one."""
        return max(1, self.steps_for(self.budget))

    def progress(self, step: int) -> float:
        """Return the fraction of the budget spent before `step`, from 0 to 1."""
        match self.budget:
            case Steps(n=n):
                spent: float = step / n
            case Tokens(n=n):
                spent = self.tokens_before(step) / n if n else 1.0
            case Flops(n=f):
                spent = self.flops_before(step) / f if f else 1.0
        return min(1.0, spent)

    def clock(self, step: int) -> Clock:
        """Return the clock before `step`, as NumPy scalars."""
        return Clock(
            step=np.int32(step),
            tokens=np.float32(self.tokens_before(step)),
            flops=np.float32(self.flops_before(step)),
            progress=np.float32(self.progress(step)),
        )

    @staticmethod
    def _first_step(is_reached: Callable[[int], bool]) -> int:
        """Return the smallest k for which the monotone `is_reached(k)` holds."""
        high = 1
        while not is_reached(high):
            high *= 2
        low = 0
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if is_reached(middle) else (middle + 1, high)
        return low


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds by activity. Not reproducible, unlike every other account."""

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
        """Fraction of the time that was spent training."""
        return self.train / self.total if self.total else 0.0

    def __sub__(self, earlier: Seconds) -> Seconds:
        return replace(self, **{name: value - getattr(earlier, name) for name, value in asdict(self).items()})

    def plus(self, **seconds: float) -> Seconds:
        """Return a copy with seconds added, e.g. `plus(save=1.5)`."""
        return replace(self, **{name: getattr(self, name) + value for name, value in seconds.items()})


CostElsewhere = Literal["stated", "unknown"]
"""What is known of training elsewhere, as that of an imported model: its user stated it, or nobody did."""


def least_known(costs: Iterable[CostElsewhere | None]) -> CostElsewhere | None:
    """Return what is known of several costs together: as much as of the least known; None is trained here."""
    given = set(costs)
    return "unknown" if "unknown" in given else "stated" if "stated" in given else None


@dataclass(frozen=True)
class Ledger:
    """Accounts of what was spent. Ledgers add up along a chain of stages.

    Where `cost_elsewhere` is "unknown", the counts leave out training that nobody counted: they are lower bounds, and
    whatever adds such a ledger is one too. Where it is "stated", they include what a user said of it.
    """

    steps: int = 0
    tokens: int = 0
    flops: int = 0  # zeros counted
    sparse_flops: int = 0  # zeros skipped
    active_parameter_tokens: int = 0  # the integral of active parameters over tokens; / tokens = average N
    seconds: Seconds = field(default_factory=Seconds)
    cost_elsewhere: CostElsewhere | None = None  # None: everything was trained here

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            steps=self.steps + other.steps,
            tokens=self.tokens + other.tokens,
            flops=self.flops + other.flops,
            sparse_flops=self.sparse_flops + other.sparse_flops,
            active_parameter_tokens=self.active_parameter_tokens + other.active_parameter_tokens,
            seconds=self.seconds.plus(**asdict(other.seconds)),
            cost_elsewhere=least_known((self.cost_elsewhere, other.cost_elsewhere)),
        )

    def __sub__(self, other: Ledger) -> Ledger:
        """Subtract `other`, which this ledger includes. What is not known of the whole is not known of the rest."""
        counts = {name: value - getattr(other, name) for name, value in self.counts().items()}
        seconds = self.seconds.plus(**{k: -v for k, v in asdict(other.seconds).items()})
        return Ledger(**counts, seconds=seconds, cost_elsewhere=self.cost_elsewhere)

    def plus_flops(self, flops: int) -> Ledger:
        """Return a copy with the cost of something other than training on tokens added."""
        return replace(self, flops=self.flops + flops, sparse_flops=self.sparse_flops + flops)

    @property
    def average_active_parameters(self) -> float:
        """Active parameters averaged over the tokens trained."""
        return self.active_parameter_tokens / self.tokens if self.tokens else 0.0

    def after(self, timeline: Timeline, step: int) -> Ledger:
        """Return the ledger of a stage after `step` steps of `timeline`; seconds are unchanged."""
        return replace(
            self,
            steps=step,
            tokens=timeline.tokens_before(step),
            flops=timeline.flops_before(step),
            sparse_flops=timeline.sparse_flops_before(step),
            active_parameter_tokens=timeline.active_parameter_tokens_before(step),
        )

    def counts(self) -> dict[str, int]:
        """Return the reproducible accounts, as JSON."""
        return {name: value for name, value in asdict(self).items() if name not in ("seconds", "cost_elsewhere")}

    def to_json(self) -> dict[str, Any]:
        """Return all accounts as JSON; `cost_elsewhere` only where something was trained elsewhere."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ledger:
        # Ledgers from before sparse models existed have no sparse_flops. Without cost_elsewhere all was trained here.
        ledger = cls(**{"sparse_flops": data["flops"], **data, "seconds": Seconds(**data["seconds"])})
        if not all(isinstance(count, int) for count in ledger.counts().values()):
            raise ValueError(f"the accounts of a ledger are whole numbers, not {ledger.counts()}")
        if ledger.cost_elsewhere not in (None, *get_args(CostElsewhere)):
            raise ValueError(f"cost_elsewhere={ledger.cost_elsewhere!r} is none of {get_args(CostElsewhere)}")
        return ledger
