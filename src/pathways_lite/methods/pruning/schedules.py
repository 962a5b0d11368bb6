"""How dense a stage is when, in closed form: in shares of its compute, of its tokens, and step by step.

Where zeros are skipped a token costs f + rho, with rho the density of the prunable weights, in units of what these cost
in the dense model, and f what everything else costs. While the share dc of the compute is spent, tokens in proportion
to dc / (f + rho(c)) are seen: the sparser, the more. Where zeros are computed with, shares of compute and of tokens are
the same.
"""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass

from pathways_lite.ledger import Timeline
from pathways_lite.recipe import Prune

DENSITIES = 1 << 16
"""Densities are multiples of one over this: exact in float32, and products with sizes exact in 32-bit integers."""


@dataclass(frozen=True)
class DensitySchedule:
    """The density over a stage.

    `fixed`: FLOPs per token that no zeros save, over those of the prunable weights where all are active.
    """

    prune: Prune
    fixed: float = 0.0

    @property
    def first(self) -> float:
        """Before pruning begins."""
        return 1.0 - self.prune.start_sparsity

    @property
    def last(self) -> float:
        """After it has ended."""
        return 1.0 - self.prune.sparsity

    def at(self, compute: float) -> float:
        """The density when this share of the compute is spent."""
        prune = self.prune
        if compute < prune.begin:
            return self.first
        if compute >= prune.end:
            return self.last
        left = 1.0 - (compute - prune.begin) / (prune.end - prune.begin)
        return self.last + (self.first - self.last) * left ** (3 if prune.shape == "cubic" else 1)

    def tokens(self, compute: float) -> float:
        """The share of the tokens that is seen when this share of the compute is spent."""
        return self._tokens(compute) / self._all_tokens

    def compute(self, tokens: float) -> float:
        """The inverse of `tokens`."""
        low, high = 0.0, 1.0
        while low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if self.tokens(middle) < tokens else (low, middle)
        return high

    @property
    def mean(self) -> float:
        """The density averaged over tokens."""
        prune = self.prune
        if prune.compute == "sparse":
            return 1.0 / self._all_tokens - self.fixed
        window = self.last + (self.first - self.last) / (4 if prune.shape == "cubic" else 2)
        return prune.begin * self.first + (prune.end - prune.begin) * window + (1.0 - prune.end) * self.last

    @functools.cached_property
    def _all_tokens(self) -> float:
        return self._tokens(1.0)

    def _tokens(self, compute: float) -> float:
        """Tokens seen when this share of the compute is spent: the integral of dc / (f + rho(c))."""
        prune = self.prune
        if prune.compute == "dense":
            return compute
        before, after = min(compute, prune.begin), max(0.0, compute - prune.end)
        window = prune.end - prune.begin
        passed = (min(compute, prune.end) - prune.begin) / window if window and compute > prune.begin else 0.0
        floor, drop = self.fixed + self.last, self.first - self.last
        way = _cubic if prune.shape == "cubic" else _linear
        return before / (floor + drop) + window * way(floor, drop, passed) + after / floor


def _linear(floor: float, drop: float, passed: float) -> float:
    """The integral of dp / (floor + drop (1 - p)) from 0 to `passed`."""
    if abs(drop) < 1e-9 * floor:
        return passed / floor
    return -math.log1p(-drop * passed / (floor + drop)) / drop


def _cubic(floor: float, drop: float, passed: float) -> float:
    """The integral of dp / (floor + drop (1 - p)^3) from 0 to `passed`."""
    root = math.cbrt(drop / floor)
    if abs(root) < 1e-4:  # its cube is less than rounding
        return passed / floor
    return (_over_cube(root) - _over_cube(root * (1.0 - passed))) / (floor * root)


def _over_cube(x: float) -> float:
    """The integral of dt / (1 + t^3) from 0 to x > -1."""
    angle = math.atan((2.0 * x - 1.0) / math.sqrt(3.0)) + math.pi / 6
    return math.log((1.0 + x) ** 2 / (1.0 - x + x * x)) / 6.0 + angle / math.sqrt(3.0)


def updates(densities: DensitySchedule, timeline: Timeline) -> list[tuple[int, float]]:
    """The steps before which the masks change, the first at 0, with the density from there on.

    Updates fall on the first step behind `begin`, every `every` steps from there, and the first step behind `end`.
    """
    total = timeline.total_steps
    tokens = timeline.tokens_before(total)
    share = lambda step: timeline.tokens_before(step) / tokens  # noqa: E731
    first, last = (
        bisect.bisect_left(range(total), densities.tokens(compute), key=share)
        for compute in (densities.prune.begin, densities.prune.end)
    )
    steps = range(first, last, densities.prune.update_every)
    way = [(step, rounded(densities.at(densities.compute(share(step))))) for step in steps]
    return sorted({0: rounded(densities.first), **dict(way), last: rounded(densities.last)}.items())


def rounded(density: float) -> float:
    """To what densities are multiples of."""
    return round(density * DENSITIES) / DENSITIES


def num_kept(size: int, density: float) -> int:
    """How many of `size` stay, by 32-bit arithmetic on the device as well (`thresholds.kept`)."""
    return (size * round(density * DENSITIES) + DENSITIES // 2) // DENSITIES
