"""The order of examples under a mixture of domains: arithmetic on the example's number, as without one.

Which domain example k of a phase is of says an additive recurrence, k times the golden ratio modulo 1: it falls into
the domain's part of [0, 1). So every stretch of examples has each domain's share to within a few, and how many of a
domain come before example k is a sum of floors, found in as many steps as a greatest common divisor (`floor_sum`). A
domain's own sequences come in keyed random order, anew in every epoch of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pathways_lite.data.order import ExampleLocation, Skips, first_example, permute, round_keys
from pathways_lite.errors import UserError
from pathways_lite.ledger import Timeline
from pathways_lite.recipe import DataMixture, DomainWeights, GivenWeights, LearnedWeights, Temperature, UniMax

CIRCLE = 1 << 32  # parts of [0, 1)
GOLDEN = 2654435769  # the odd number next to CIRCLE / golden ratio


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """The sum of (a i + b) // m over i = 0 .. n-1, by the Euclidean algorithm; a >= 0, n >= 0, m > 0."""
    total = 0
    while n:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        n, b = divmod(a * n + b, m)
        m, a = a, m
    return total


@dataclass(frozen=True)
class Phase:
    """Examples from number `first` on, of domains in these proportions."""

    first: int
    weights: Sequence[float]  # of each domain, with sum 1

    @cached_property
    def edges(self) -> np.ndarray:
        """Where the domains' parts of the circle end, uint64 [D]."""
        ends = np.round(np.cumsum(np.asarray(self.weights, np.float64)) * CIRCLE).astype(np.uint64)
        ends[int(np.flatnonzero(self.weights)[-1]) :] = CIRCLE
        return ends

    def domains(self, begin: int, end: int) -> np.ndarray:
        """Of examples begin .. end-1, int64."""
        numbers = np.arange(begin - self.first, end - self.first, dtype=np.uint64)
        return np.searchsorted(self.edges, numbers * np.uint64(GOLDEN) % np.uint64(CIRCLE), side="right")

    def counts(self, end: int) -> np.ndarray:
        """How many of each domain there are before example `end`, int64 [D]."""
        n = end - self.first
        below = [floor_sum(n, CIRCLE, GOLDEN, 0) - floor_sum(n, CIRCLE, GOLDEN, -int(edge)) for edge in self.edges]
        return np.diff(np.asarray(below, np.int64), prepend=0)


@dataclass(frozen=True)
class MixedOrder:
    """The keyed order of a mixture.

    windows: sequences of each domain. consumed: how many of each the stages before have read.
    """

    windows: Sequence[int]
    phases: Sequence[Phase]
    seed: int
    consumed: Sequence[int] = ()

    def counts(self, example: int) -> np.ndarray:
        """How many sequences of each domain are read before `example`, those of the stages before included."""
        found = np.asarray(self.consumed or [0] * len(self.windows), np.int64)
        ends = [phase.first for phase in self.phases[1:]] + [example]
        for phase, end in zip(self.phases, ends, strict=True):
            if phase.first < example:
                found = found + phase.counts(min(end, example))
        return found

    def locate(self, examples: np.ndarray) -> ExampleLocation:
        """Epoch, domain and window of each global example number (non-negative integers)."""
        examples = np.asarray(examples, dtype=np.int64)
        begin, end = int(examples.min()), int(examples.max()) + 1
        domain = self._domains(begin, end)
        position = np.empty_like(domain)
        for d, before in enumerate(self.counts(begin).tolist()):
            here = domain == d
            position[here] = before + np.arange(np.count_nonzero(here))
        domain, position = domain[examples - begin], position[examples - begin]
        epoch, place = np.divmod(position, np.asarray(self.windows, np.int64)[domain])
        window = np.empty_like(place)
        for d, e in np.unique(np.stack([domain, epoch]), axis=1).T.tolist():
            here = (domain == d) & (epoch == e)
            window[here] = permute(place[here], self.windows[d], round_keys(self.seed, d, e))
        return ExampleLocation(epoch, domain, window)

    def _domains(self, begin: int, end: int) -> np.ndarray:
        ends = [phase.first for phase in self.phases[1:]] + [end]
        parts = [
            phase.domains(max(begin, phase.first), min(end, stop))
            for phase, stop in zip(self.phases, ends, strict=True)
            if max(begin, phase.first) < min(end, stop)
        ]
        return np.concatenate(parts).astype(np.int64)


def shares(weights: DomainWeights, windows: Sequence[int], domains: Sequence[str], sequences: int) -> np.ndarray:
    """The share of each domain, float64 [D] with sum 1, in a phase of so many `sequences`.

    Raises UserError for domains that are not there, and for weight on one without a single sequence.
    """
    sizes = np.asarray(windows, np.float64)
    match weights:
        case Temperature(tau=tau, upsample=times):
            # The largest counts 1, so that no temperature is too low for floats.
            relative = np.where(sizes > 0, sizes, 1.0) / max(1.0, sizes.max())
            found = relative ** (1.0 / tau) * (sizes > 0) * _by_name(times, domains, 1.0)
        case GivenWeights(weights=given):
            found = _by_name(given, domains, 0.0)
        case LearnedWeights(weights=learned):
            if learned is None:
                raise UserError(f"what is read is known when stage {weights.stage!r} has learned it; train that first")
            found = _by_name(learned, domains, 0.0)
        case UniMax(epochs=epochs):
            found = unimax(sizes * epochs, max(1, sequences))
    if empty := [name for name, share, size in zip(domains, found, sizes, strict=True) if share and not size]:
        raise UserError(f"the mixture reads {', '.join(empty)}, which have not one sequence of training tokens")
    if not found.sum():
        raise UserError("the mixture gives no domain a weight above 0")
    return found / found.sum()


def unimax(most: np.ndarray, budget: float) -> np.ndarray:
    """UniMax's allotment of `budget`: from the smallest on, each gets an equal part of what is left, or all it has."""
    found, left = np.zeros_like(most), budget
    there = np.flatnonzero(most > 0)
    for done, d in enumerate(there[np.argsort(most[there], kind="stable")]):
        found[d] = min(most[d], left / (len(there) - done))
        left -= found[d]
    return found


def phases(
    mixture: DataMixture,
    windows: Sequence[int],
    domains: Sequence[str],
    timeline: Timeline,
    skips: Skips = (),
    first_sequence: int = 0,
) -> list[Phase]:
    """The phases of a stage in example numbers. They follow the clock, whatever was jumped over."""
    steps = _starts(mixture, timeline)
    proportional = shares(Temperature(), windows, domains, 0)
    found = []
    for number, given in enumerate(weights_of(mixture, windows, domains, timeline)):
        first = first_example(timeline, steps[number], skips, first_sequence) if number else 0
        found.append(Phase(first, tuple((given if mixture.by == "sampling" else proportional).tolist())))
    return found


def weights_of(
    mixture: DataMixture, windows: Sequence[int], domains: Sequence[str], timeline: Timeline
) -> list[np.ndarray]:
    """The shares of each phase, as the mixture says them."""
    steps = [*_starts(mixture, timeline), timeline.total_steps]
    lengths = np.diff([timeline.sequences_before(step) for step in steps]).tolist()
    return [
        shares(phase.weights, windows, domains, sequences)
        for phase, sequences in zip(mixture.phases, lengths, strict=True)
    ]


def loss_weights(
    mixture: DataMixture, windows: Sequence[int], domains: Sequence[str], timeline: Timeline
) -> tuple[list[int], np.ndarray]:
    """Of a scalarized mixture: first steps of its phases, and what a domain's loss counts there, float32 [phases, D].

    p(i) / p(i; tau = 1), so that the expected gradient is that of reading by the shares p (arXiv 2410.04579).
    """
    proportional = shares(Temperature(), windows, domains, 0)
    ratio = [p / np.where(proportional > 0, proportional, 1.0) for p in weights_of(mixture, windows, domains, timeline)]
    return _starts(mixture, timeline), np.asarray(ratio, np.float32)


def _starts(mixture: DataMixture, timeline: Timeline) -> list[int]:
    """The first step of each phase; of one that would begin after the stage, the stage's end."""
    return [0, *(min(timeline.steps_for(phase.start), timeline.total_steps) for phase in mixture.phases[1:])]


def _by_name(pairs: Sequence[tuple[str, float]], domains: Sequence[str], otherwise: float) -> np.ndarray:
    values = dict(pairs)
    if unknown := sorted(set(values) - set(domains)):
        raise UserError(f"the mixture names {', '.join(unknown)}, but the corpus has: {', '.join(domains)}")
    return np.asarray([values.get(name, otherwise) for name in domains], np.float64)
