"""The order of examples under a mixture of domains: arithmetic on the example's number, as without a mixture.

An additive recurrence determines the domain of example k of a phase: [0, 1) is divided into one interval per domain, as
long as its share, and k times the golden ratio modulo 1 falls into the interval of the example's domain. So any run of
consecutive examples has each domain's share to within a few examples, and the number of examples of a domain before
example k is a sum of floors, computed in as many steps as a greatest common divisor (`floor_sum`). A domain's own
sequences are in keyed random order, another one in every epoch of the domain.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pathways_lite.data.order import ExampleLocation, Skips, first_example, permute, round_keys, unpermute
from pathways_lite.errors import UserError
from pathways_lite.ledger import Timeline
from pathways_lite.recipe import DataMixture, DomainWeights, GivenWeights, LearnedWeights, Temperature, UniMax

CIRCLE = 1 << 32  # resolution of [0, 1)
GOLDEN = 2654435769  # the odd number next to CIRCLE / golden ratio


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Return the sum of (a i + b) // m over i = 0 .. n-1, by the Euclidean algorithm; a >= 0, n >= 0, m > 0."""
    total = 0
    while n:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        n, b = divmod(a * n + b, m)
        m, a = a, m
    return total


@dataclass(frozen=True)
class ResolvedPhase:
    """A `MixturePhase` of the recipe in example numbers: it starts at example `first` and interleaves domains."""

    first: int
    weights: Sequence[float]  # the share of each domain, with sum 1

    @cached_property
    def edges(self) -> np.ndarray:
        """Ends of the domains' intervals, in units of 1 / CIRCLE, uint64 [D]."""
        ends = np.round(np.cumsum(np.asarray(self.weights, np.float64)) * CIRCLE).astype(np.uint64)
        ends[int(np.flatnonzero(self.weights)[-1]) :] = CIRCLE
        return ends

    def domains(self, begin: int, end: int) -> np.ndarray:
        """Return the domains of examples begin .. end-1, int64."""
        numbers = np.arange(begin - self.first, end - self.first, dtype=np.uint64)
        return np.searchsorted(self.edges, numbers * np.uint64(GOLDEN) % np.uint64(CIRCLE), side="right")

    def counts(self, end: int) -> np.ndarray:
        """Count the phase's examples of each domain before example `end`, int64 [D]."""
        n = end - self.first
        below = [floor_sum(n, CIRCLE, GOLDEN, 0) - floor_sum(n, CIRCLE, GOLDEN, -int(edge)) for edge in self.edges]
        return np.diff(np.asarray(below, np.int64), prepend=0)


@dataclass(frozen=True)
class MixedOrder:
    """The keyed order of a mixture.

    windows: number of token windows of each domain.
    consumed: number of sequences of each domain that earlier stages have read.
    """

    windows: Sequence[int]
    phases: Sequence[ResolvedPhase]
    seed: int
    consumed: Sequence[int] = ()

    def counts(self, example: int) -> np.ndarray:
        """Count the sequences of each domain read before `example`, including those of earlier stages."""
        total = np.asarray(self.consumed or [0] * len(self.windows), np.int64)
        ends = [phase.first for phase in self.phases[1:]] + [example]
        for phase, end in zip(self.phases, ends, strict=True):
            if phase.first < example:
                total = total + phase.counts(min(end, example))
        return total

    def locate(self, examples: np.ndarray) -> ExampleLocation:
        """Return epoch, domain and window of each global example number (non-negative integers)."""
        examples = np.asarray(examples, dtype=np.int64)
        begin, end = int(examples.min()), int(examples.max()) + 1
        domain = self._domains(begin, end)
        number = np.empty_like(domain)  # of the example among those of its domain
        for d, count in enumerate(self.counts(begin).tolist()):
            in_domain = domain == d
            number[in_domain] = count + np.arange(np.count_nonzero(in_domain))
        domain, number = domain[examples - begin], number[examples - begin]
        epoch, position = np.divmod(number, np.asarray(self.windows, np.int64)[domain])
        window = np.empty_like(position)
        for d, e in np.unique(np.stack([domain, epoch]), axis=1).T.tolist():
            in_epoch = (domain == d) & (epoch == e)
            window[in_epoch] = permute(position[in_epoch], self.windows[d], round_keys(self.seed, d, e))
        return ExampleLocation(epoch, domain, window)

    def examples_of(self, domain: int, window: int, begin: int, end: int) -> list[int]:
        """Return the examples among begin .. end-1 that are this window, ascending: the inverse of `locate`."""
        size = self.windows[domain]
        first, stop = (int(self.counts(example)[domain]) for example in (begin, end))
        examples = []
        for epoch in range(first // size, -(-stop // size)):
            position = int(unpermute(np.array([window]), size, round_keys(self.seed, domain, epoch))[0])
            number = epoch * size + position  # among the examples of the domain
            if first <= number < stop:
                count = lambda example: int(self.counts(example)[domain])  # noqa: E731
                examples.append(begin + bisect.bisect_right(range(begin, end), number, key=count) - 1)
        return examples

    def _domains(self, begin: int, end: int) -> np.ndarray:
        ends = [phase.first for phase in self.phases[1:]] + [end]
        per_phase = [
            phase.domains(max(begin, phase.first), min(end, stop))
            for phase, stop in zip(self.phases, ends, strict=True)
            if max(begin, phase.first) < min(end, stop)
        ]
        return np.concatenate(per_phase).astype(np.int64)


def shares(weights: DomainWeights, windows: Sequence[int], domains: Sequence[str], sequences: int) -> np.ndarray:
    """Return the share of each domain, float64 [D] with sum 1, in a phase of n `sequences`.

    Raises UserError for unknown domains, and for weight on a domain without a single sequence.
    """
    sizes = np.asarray(windows, np.float64)
    match weights:
        case Temperature(tau=tau, upsample=upsample):
            # Relative to the largest, so that no temperature is too low for floats.
            relative = np.where(sizes > 0, sizes, 1.0) / max(1.0, sizes.max())
            weight = relative ** (1.0 / tau) * (sizes > 0) * _by_name(upsample, domains, 1.0)
        case GivenWeights(weights=given):
            weight = _by_name(given, domains, 0.0)
        case LearnedWeights(weights=learned):
            if learned is None:
                raise UserError(f"the domain weights are learned by stage {weights.stage!r}; train that stage first")
            weight = _by_name(learned, domains, 0.0)
        case UniMax(epochs=epochs):
            weight = unimax(sizes * epochs, max(1, sequences))
    if empty := [name for name, w, size in zip(domains, weight, sizes, strict=True) if w and not size]:
        raise UserError(f"the mixture reads {', '.join(empty)}, which have not one sequence of training tokens")
    if not weight.sum():
        raise UserError("the mixture gives no domain a weight above 0")
    return weight / weight.sum()


def unimax(caps: np.ndarray, budget: float) -> np.ndarray:
    """Divide `budget` among domains as UniMax does (Chung et al. 2023, arXiv 2304.09151).

    In ascending order of their caps, each domain gets an equal part of the remaining budget, but at most its cap.
    """
    allotment, remaining = np.zeros_like(caps), budget
    nonempty = np.flatnonzero(caps > 0)
    for done, d in enumerate(nonempty[np.argsort(caps[nonempty], kind="stable")]):
        allotment[d] = min(caps[d], remaining / (len(nonempty) - done))
        remaining -= allotment[d]
    return allotment


def resolve_phases(
    mixture: DataMixture,
    windows: Sequence[int],
    domains: Sequence[str],
    timeline: Timeline,
    skips: Skips = (),
    first_sequence: int = 0,
) -> list[ResolvedPhase]:
    """Resolve the phases of a stage to example numbers and shares.

    Phases start at steps, so skipped sequences do not delay them. A mixture by loss weights is read in proportion to
    the domains' sizes.
    """
    steps = _first_steps(mixture, timeline)
    proportional = shares(Temperature(), windows, domains, 0)
    resolved = []
    for number, mixed in enumerate(phase_shares(mixture, windows, domains, timeline)):
        first = first_example(timeline, steps[number], skips, first_sequence) if number else 0
        resolved.append(ResolvedPhase(first, tuple((mixed if mixture.by == "sampling" else proportional).tolist())))
    return resolved


def phase_shares(
    mixture: DataMixture, windows: Sequence[int], domains: Sequence[str], timeline: Timeline
) -> list[np.ndarray]:
    """Return the domains' shares in each phase, as the mixture defines them."""
    steps = [*_first_steps(mixture, timeline), timeline.total_steps]
    lengths = np.diff([timeline.sequences_before(step) for step in steps]).tolist()
    return [
        shares(phase.weights, windows, domains, sequences)
        for phase, sequences in zip(mixture.phases, lengths, strict=True)
    ]


def loss_weights(
    mixture: DataMixture, windows: Sequence[int], domains: Sequence[str], timeline: Timeline
) -> tuple[list[int], np.ndarray]:
    """Return the first steps of a scalarized mixture's phases, and the domains' loss weights, float32 [phases, D].

    The weights are p(i) / p(i; tau = 1), so that the expected gradient is that of sampling by the shares p
    (arXiv 2410.04579).
    """
    proportional = shares(Temperature(), windows, domains, 0)
    ratio = [
        p / np.where(proportional > 0, proportional, 1.0) for p in phase_shares(mixture, windows, domains, timeline)
    ]
    return _first_steps(mixture, timeline), np.asarray(ratio, np.float32)


def _first_steps(mixture: DataMixture, timeline: Timeline) -> list[int]:
    """Return the first step of each phase; for a phase that would start after the stage, the stage's end."""
    return [0, *(min(timeline.steps_for(phase.start), timeline.total_steps) for phase in mixture.phases[1:])]


def _by_name(pairs: Sequence[tuple[str, float]], domains: Sequence[str], default: float) -> np.ndarray:
    """Return the value of each domain, float64 [D]. Raises UserError for unknown domains."""
    values = dict(pairs)
    if unknown := sorted(set(values) - set(domains)):
        raise UserError(f"the mixture names {', '.join(unknown)}, but the corpus has: {', '.join(domains)}")
    return np.asarray([values.get(name, default) for name in domains], np.float64)
