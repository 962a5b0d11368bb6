"""What growth does to a model's arrays, as data: where each block comes from, and each unit of each axis that grows.

An operator makes a `GrowthPlan` of two models; `apply.py` carries it out, an array at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.recipe import MaskedGrowth, Model, ZeroInit


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
    ZERO_OUTPUT = "silence"  # a copy whose branches add nothing
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
class GrowthPlan:
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


Planner = Callable[[Any, Model, Model], GrowthPlan]
"""What an operator is, but for a learned one: (its configuration, source, target) -> plan. Raises UserError."""


# Whether one model can grow into another: what may differ, by how much, and in which direction.


WIDTHS = ("d_model", "n_heads", "n_kv_heads", "d_ff")

# What growth cannot change, as parameters are trained for it.
_SAME = (
    "head_dim", "vocab_size", "block", "norm", "norm_epsilon", "qk_norm", "rope_base", "tie_embeddings", "logit_scale",
    "logit_soft_cap", "attention_soft_cap",
)  # fmt: skip


def require_growth(source: Model, target: Model) -> None:
    """Raise UserError where `target` is smaller than `source` in something, or of another kind."""
    for name in _SAME:
        if (old := getattr(source, name)) != (new := getattr(target, name)):
            raise UserError(f"{name} goes from {old!r} to {new!r}, which growth cannot do; use {name}={old!r} in both")
    for name in ("n_layers", *WIDTHS):
        if (new := getattr(target, name)) < (old := getattr(source, name)):
            raise UserError(f"{name} goes from {old} to {new}, but growth makes nothing smaller; use {old} or more")


def require_depth_alone(kind: str, source: Model, target: Model) -> None:
    """Raise UserError where `target` is wider than `source`, for an operator that only deepens."""
    for name in WIDTHS:
        if (old := getattr(source, name)) != (new := getattr(target, name)):
            raise UserError(
                f"operator {kind!r} makes a model deeper, not wider, but {name} goes from {old} to {new}; use {name}="
                f"{old}, or operator=Compose(depth=..., width=...)"
            )


def require_width_alone(kind: str, source: Model, target: Model) -> None:
    """Raise UserError where `target` is deeper than `source`, for an operator that only widens."""
    if source.n_layers != target.n_layers:
        raise UserError(
            f"operator {kind!r} makes a model wider, not deeper, but n_layers goes from {source.n_layers} to "
            f"{target.n_layers}; use n_layers={source.n_layers}, or operator=Compose(depth=..., width=...)"
        )


def times_deeper(kind: str, source: Model, target: Model) -> int:
    """How many times the layers of `source` go into those of `target`. Raises UserError where that is no integer."""
    times, rest = divmod(target.n_layers, source.n_layers)
    if rest:
        low, high = times * source.n_layers, (times + 1) * source.n_layers
        raise UserError(
            f"operator {kind!r} repeats all blocks, but n_layers goes from {source.n_layers} to {target.n_layers}; use "
            f"n_layers={low} or {high}, or operator=Blocks(order=...)"
        )
    return times


# Whether a plan preserves the function: whether the grown model gives the same logits, but for rounding.


def is_function_preserving(plan: GrowthPlan) -> bool:
    """Of the parameters as they begin, under their masks where the plan has some. Noise is not considered."""
    return _depth(plan) and _stream(plan) and not (plan.mixed and plan.width)


def describe_width(plan: GrowthPlan) -> list[str]:
    """For people: a line for each axis of units that grows."""
    names = {"embed": "d_model", "mlp": "d_ff", "heads": "n_heads", "kv": "n_kv_heads"}
    lines = []
    for axis, units in plan.width.items():
        copies = np.bincount(units.index[~units.new], minlength=units.old)
        counts = ", ".join(f"{(copies == times).sum()} {times} times" for times in np.unique(copies))
        lines.append(f"{names[axis]} {units.old} → {units.index.size}: {counts}; {units.new.sum()} new")
    return lines


def _depth(plan: GrowthPlan) -> bool:
    """Old blocks in their order, each with its window, and new ones that add nothing."""
    fresh = plan.depth.fresh
    kept = [block for block, new in zip(plan.depth.blocks, fresh, strict=True) if not new]
    if kept != list(range(plan.source.n_layers)) or (fresh.any() and plan.depth.treatment is Treatment.COPY):
        return False
    return [w for w, new in zip(_windows(plan.target), fresh, strict=True) if not new] == _windows(plan.source)


def _stream(plan: GrowthPlan) -> bool:
    """Norms see the same as before. Heads and units of the MLP are exact in every plan."""
    units = plan.width.get("embed")
    if units is None or plan.source.norm == "rms":
        return True
    even = np.unique(units.copies).size == 1
    return even and not (units.new.any() and (plan.masked or units.written is not Fill.MEAN))


def _windows(model: Model) -> list[int | None]:
    pattern = model.window or (None,)
    return list(pattern) * (model.n_layers // len(pattern))


# What Zero and Random have in common: old units and blocks stay what they are, new ones come beside them.


def padded_blocks(config: ZeroInit | MaskedGrowth, source: Model, target: Model) -> tuple[int, ...]:
    """Any number of blocks: on top, in the old ones' order again, or each behind the old one that it repeats."""
    layers = np.arange(target.n_layers)
    if config.order == "stack":
        return tuple((layers % source.n_layers).tolist())
    return tuple((layers * source.n_layers // target.n_layers).tolist())


def padded_width(source: Model, target: Model, *, written: Fill, unread: Fill) -> dict[str, Units]:
    """Old units first, then new ones; of query heads, within each group of those that share a key/value head.

    `written`: what is written to new units of the residual stream at first. `unread`: how new heads and units of the
    MLP are read. Raises UserError where a group gets fewer query heads than it has.
    """
    width = {}
    if source.d_model != target.d_model:
        width["embed"] = Units(_behind(source.d_model, target.d_model), source.d_model, written=written)
    if source.d_ff != target.d_ff:
        width["mlp"] = Units(_behind(source.d_ff, target.d_ff), source.d_ff, read=unread)
    if (source.n_heads, source.n_kv_heads) != (target.n_heads, target.n_kv_heads):
        group, new_group = source.n_heads // source.n_kv_heads, target.n_heads // target.n_kv_heads
        if new_group < group:
            raise UserError(
                f"{group} query heads share a key/value head, but of {target.n_heads} and {target.n_kv_heads} only "
                f"{new_group} do; use n_heads={group * target.n_kv_heads} or more, or operator=Direct()"
            )
        kv, place = np.divmod(np.arange(target.n_heads), new_group)
        heads = np.where((kv < source.n_kv_heads) & (place < group), kv * group + place, -1)
        width["heads"] = Units(heads, source.n_heads, read=unread)
        width["kv"] = Units(_behind(source.n_kv_heads, target.n_kv_heads), source.n_kv_heads)
    return width


def _behind(old: int, new: int) -> np.ndarray:
    units = np.arange(new)
    return np.where(units < old, units, -1)
