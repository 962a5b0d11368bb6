"""Density schedules in closed form: density over a stage's compute, over its tokens, and step by step.

Where zeros are skipped, a token costs f + rho: rho is the density of the prunable weights, and f the cost of everything
else, in units of what the prunable weights cost in the dense model. Spending the fraction dc of the compute processes
tokens in proportion to dc / (f + rho(c)): the sparser the model, the more tokens. Where zeros are multiplied like other
weights, fractions of compute and of tokens are the same.
"""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass

from pathways_lite.ledger import Timeline
from pathways_lite.recipe import Prune

DENSITIES = 1 << 16
"""Densities are multiples of 1 / DENSITIES: exact in float32, and products with sizes exact in 32-bit integers."""


@dataclass(frozen=True)
class DensitySchedule:
    """The density over a stage.

    Attributes:
      fixed: FLOPs per token that no zeros save, divided by those of the prunable weights where all are active.
    """

    prune: Prune
    fixed: float = 0.0

    @property
    def initial(self) -> float:
        """The density before pruning begins."""
        return 1.0 - self.prune.start_sparsity

    @property
    def final(self) -> float:
        """The density after pruning has ended."""
        return 1.0 - self.prune.sparsity

    def density_at(self, compute: float) -> float:
        """Return the density after the fraction `compute` of the compute is spent."""
        prune = self.prune
        if compute < prune.begin:
            return self.initial
        if compute >= prune.end:
            return self.final
        passed = (compute - prune.begin) / (prune.end - prune.begin)
        if prune.shape == "geometric":
            return self._geometric(self._window_tokens(passed) / self._window_tokens(1.0))
        remaining = 1.0 - passed
        return self.final + (self.initial - self.final) * remaining ** (3 if prune.shape == "cubic" else 1)

    def tokens_at(self, compute: float) -> float:
        """Return the fraction of the tokens processed after the fraction `compute` of the compute is spent."""
        return self._token_integral(compute) / self._total_integral

    def density_at_tokens(self, tokens: float) -> float:
        """Return the density after the fraction `tokens` of the tokens is processed."""
        first, last = self.tokens_at(self.prune.begin), self.tokens_at(self.prune.end)
        if self.prune.shape == "geometric" and first <= tokens < last:
            return self._geometric((tokens - first) / (last - first))
        return self.density_at(self.compute_at(tokens))

    def compute_at(self, tokens: float) -> float:
        """Return the fraction of the compute spent after the fraction `tokens` of the tokens; inverts `tokens_at`."""
        low, high = 0.0, 1.0
        while low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if self.tokens_at(middle) < tokens else (low, middle)
        return high

    @property
    def mean(self) -> float:
        """The mean density over tokens."""
        prune = self.prune
        if prune.compute == "sparse":
            return 1.0 / self._total_integral - self.fixed
        if prune.shape == "geometric":
            window = self._logarithmic_mean
        else:
            window = self.final + (self.initial - self.final) / (4 if prune.shape == "cubic" else 2)
        return prune.begin * self.initial + (prune.end - prune.begin) * window + (1.0 - prune.end) * self.final

    @functools.cached_property
    def _total_integral(self) -> float:
        return self._token_integral(1.0)

    def _token_integral(self, compute: float) -> float:
        """Integrate dc / (f + rho(c)) from 0 to `compute`: tokens processed, unnormalized."""
        prune = self.prune
        if prune.compute == "dense":
            return compute
        before, after = min(compute, prune.begin), max(0.0, compute - prune.end)
        window = prune.end - prune.begin
        passed = (min(compute, prune.end) - prune.begin) / window if window and compute > prune.begin else 0.0
        floor, drop = self.fixed + self.final, self.initial - self.final
        return before / (floor + drop) + window * self._window_tokens(passed) + after / floor

    def _window_tokens(self, passed: float) -> float:
        """Return the tokens, unnormalized, after the fraction `passed` of the compute between `begin` and `end`."""
        if self.prune.compute == "dense":
            return passed
        floor, drop = self.fixed + self.final, self.initial - self.final
        match self.prune.shape:
            case "geometric":
                return self._geometric_tokens(passed) / (self.fixed + self._logarithmic_mean)
            case "cubic":
                return _cubic_integral(floor, drop, passed)
            case _:
                return _linear_integral(floor, drop, passed)

    # ---- densities that are geometric in tokens: rho_0 (rho_1 / rho_0)^p after the fraction p of the window's ----

    def _geometric(self, tokens: float) -> float:
        return self.initial * (self.final / self.initial) ** tokens

    @property
    def _logarithmic_mean(self) -> float:
        """The mean of the geometric densities."""
        rate = math.log(self.final / self.initial)
        return self.initial * math.expm1(rate) / rate if rate else self.initial

    def _geometric_tokens(self, passed: float) -> float:
        """Return the fraction of the window's tokens after the fraction `passed` of its compute, by bisection."""
        rate, total = math.log(self.final / self.initial), self.fixed + self._logarithmic_mean
        if not rate or passed in (0.0, 1.0):
            return passed

        def spent(tokens: float) -> float:
            return (self.fixed * tokens + self.initial * math.expm1(rate * tokens) / rate) / total

        low, high = 0.0, 1.0
        while low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if spent(middle) < passed else (low, middle)
        return high


def _linear_integral(floor: float, drop: float, passed: float) -> float:
    """Integrate dp / (floor + drop (1 - p)) from 0 to `passed`."""
    if abs(drop) < 1e-9 * floor:
        return passed / floor
    return -math.log1p(-drop * passed / (floor + drop)) / drop


def _cubic_integral(floor: float, drop: float, passed: float) -> float:
    """Integrate dp / (floor + drop (1 - p)^3) from 0 to `passed`."""
    root = math.cbrt(drop / floor)
    if abs(root) < 1e-4:  # its cube is below rounding error
        return passed / floor
    return (_inverse_cube_integral(root) - _inverse_cube_integral(root * (1.0 - passed))) / (floor * root)


def _inverse_cube_integral(x: float) -> float:
    """Integrate dt / (1 + t^3) from 0 to x > -1."""
    angle = math.atan((2.0 * x - 1.0) / math.sqrt(3.0)) + math.pi / 6
    return math.log((1.0 + x) ** 2 / (1.0 - x + x * x)) / 6.0 + angle / math.sqrt(3.0)


def mask_updates(schedule: DensitySchedule, timeline: Timeline) -> list[tuple[int, float]]:
    """List the steps before which masks change, beginning with 0, each with the density from that step on.

    Masks change at the first step after `begin`, every `update_every` steps from there, and at the first step after
    `end`. From one update to the next, the density is the schedule's at the first of the two. With edge="right", n
    updates at equal distances, both ends included, take 1 / n of the way each.
    """
    total = timeline.total_steps
    tokens = timeline.tokens_before(total)
    token_fraction = lambda step: timeline.tokens_before(step) / tokens  # noqa: E731
    first, last = (
        bisect.bisect_left(range(total), schedule.tokens_at(compute), key=token_fraction)
        for compute in (schedule.prune.begin, schedule.prune.end)
    )
    every = schedule.prune.update_every
    steps = range(first, last, every)
    positions = [token_fraction(step) for step in steps]
    if schedule.prune.edge == "right":
        begin, end = schedule.tokens_at(schedule.prune.begin), schedule.tokens_at(schedule.prune.end)
        passed = lambda step: token_fraction(step + every) - token_fraction(first)  # noqa: E731
        positions = [begin + (end - begin) * passed(step) / passed(last) for step in steps]
    densities = {
        step: round_density(schedule.density_at_tokens(position))
        for step, position in zip(steps, positions, strict=True)
    }
    return sorted({0: round_density(schedule.initial), **densities, last: round_density(schedule.final)}.items())


def round_density(density: float) -> float:
    """Round to a multiple of 1 / DENSITIES."""
    return round(density * DENSITIES) / DENSITIES


def num_kept(size: int, density: float) -> int:
    """Return the number of `size` units that stay; `thresholds.kept_counts` computes it in 32 bits on the device."""
    return (size * round(density * DENSITIES) + DENSITIES // 2) // DENSITIES
