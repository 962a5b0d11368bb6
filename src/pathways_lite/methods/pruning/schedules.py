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
        remaining = 1.0 - (compute - prune.begin) / (prune.end - prune.begin)
        return self.final + (self.initial - self.final) * remaining ** (3 if prune.shape == "cubic" else 1)

    def tokens_at(self, compute: float) -> float:
        """Return the fraction of the tokens processed after the fraction `compute` of the compute is spent."""
        return self._token_integral(compute) / self._total_integral

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
        integral = _cubic_integral if prune.shape == "cubic" else _linear_integral
        return before / (floor + drop) + window * integral(floor, drop, passed) + after / floor


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
    `end`.
    """
    total = timeline.total_steps
    tokens = timeline.tokens_before(total)
    token_fraction = lambda step: timeline.tokens_before(step) / tokens  # noqa: E731
    first, last = (
        bisect.bisect_left(range(total), schedule.tokens_at(compute), key=token_fraction)
        for compute in (schedule.prune.begin, schedule.prune.end)
    )
    steps = range(first, last, schedule.prune.update_every)
    densities = {step: round_density(schedule.density_at(schedule.compute_at(token_fraction(step)))) for step in steps}
    return sorted({0: round_density(schedule.initial), **densities, last: round_density(schedule.final)}.items())


def round_density(density: float) -> float:
    """Round to a multiple of 1 / DENSITIES."""
    return round(density * DENSITIES) / DENSITIES


def num_kept(size: int, density: float) -> int:
    """Return the number of `size` units that stay; `thresholds.kept_counts` computes it in 32 bits on the device."""
    return (size * round(density * DENSITIES) + DENSITIES // 2) // DENSITIES
