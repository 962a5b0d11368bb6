"""What growth does to a model's arrays, as data: where each block comes from, and each unit of each axis that grows.

An operator makes a `Plan` of two models; `apply.py` carries it out, an array at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from pathways_lite.recipe import Model


class Fill(Enum):
    """What stands in the place of units that are no copies."""

    RANDOM = "random"  # as the model's initialisation draws it
    ZERO = "zero"
    MEAN = "mean"  # of all the old units


@dataclass(frozen=True)
class Units:
    """The units along one logical axis: `d_model` is "embed", `d_ff` "mlp", and so on.

    Attributes:
      index: for every unit of the target, the unit of the source that it copies, or -1 for a new one.
      split: how what reads copies of one unit divides its weight among them.
      written, read: what stands in for new units where an array writes or reads them.
    """

    index: np.ndarray
    old: int
    split: str = "even"
    written: Fill = Fill.RANDOM
    read: Fill = Fill.RANDOM

    @property
    def new(self) -> np.ndarray:
        """Which units are no copies."""
        return self.index < 0

    @property
    def sources(self) -> np.ndarray:
        """`index`, with 0 where there is none."""
        return np.maximum(self.index, 0)

    @property
    def copies(self) -> np.ndarray:
        """For every unit of the target, how many copies there are of the one it copies."""
        counts = np.bincount(self.index[~self.new], minlength=self.old)
        return np.where(self.new, counts.max(), counts[self.sources])


class Treatment(Enum):
    """What happens to blocks that are not the first copy of theirs."""

    COPY = "copy"
    SILENCE = "silence"  # a copy whose branches add nothing
    REDRAW = "redraw"  # random


@dataclass(frozen=True)
class Depth:
    """The target's blocks from the bottom up: which of the source's each one copies, and how."""

    blocks: tuple[int, ...]
    treatment: Treatment = Treatment.COPY

    @property
    def fresh(self) -> np.ndarray:
        """Which blocks are not the first copy of theirs."""
        return np.array([block in self.blocks[:at] for at, block in enumerate(self.blocks)])


@dataclass(frozen=True)
class Plan:
    """Growth from `source` to `target`."""

    source: Model
    target: Model
    depth: Depth
    width: Mapping[str, Units] = field(default_factory=dict)
    masked: bool = False  # new units and blocks come under masks, which then scale the residual stream
    mixed: bool = False  # this is only how maps begin that are going to mix units and blocks

    @property
    def stream(self) -> float:
        """By how much the residual stream is scaled, over the square root of a unit's copies.

        The mean square of x over d units, written to D of them as x_i sqrt(D / d) / sqrt(copies of i), is what it was,
        whatever the copies. So norms divide by the same, epsilon included, and their scales take the factor back:
        sqrt(d / D), where there are no copies.
        """
        grows = "embed" in self.width and not self.masked
        return math.sqrt(self.target.d_model / self.source.d_model) if grows else 1.0


Planner = Callable[[Any, Model, Model], Plan]
"""What an operator is, but for a learned one: (its configuration, source, target) -> plan. Raises UserError."""
