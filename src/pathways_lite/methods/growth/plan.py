"""Growth plans: the source of each block, and of each unit of each axis that grows, as data.

An operator makes a `GrowthPlan` of two models; `apply.py` applies it, an array at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.recipe import MaskedGrowth, Model, ZeroInit


class Fill(Enum):
    """The value of units that are not copies."""

    RANDOM = "random"  # as the model's initialization draws it
    ZERO = "zero"
    MEAN = "mean"  # of all the old units


@dataclass(frozen=True)
class Units:
    """The units along one logical axis: `d_model` is "embed", `d_ff` "mlp", and so on.

    Attributes:
      index: for every unit of the target, the unit of the source that it copies, or -1 for a new one.
      old: the number of units of the source.
      split: how an array that reads copies of one unit divides its weight among them.
      written, read: the fill of new units where an array writes or reads them.
    """

    index: np.ndarray
    old: int
    split: str = "even"
    written: Fill = Fill.RANDOM
    read: Fill = Fill.RANDOM

    @property
    def new(self) -> np.ndarray:
        """Units that are not copies, bool."""
        return self.index < 0

    @property
    def sources(self) -> np.ndarray:
        """`index`, with 0 for new units."""
        return np.maximum(self.index, 0)

    @property
    def copies(self) -> np.ndarray:
        """For every unit of the target, the number of copies of its source."""
        counts = np.bincount(self.index[~self.new], minlength=self.old)
        return np.where(self.new, counts.max(), counts[self.sources])


class Treatment(Enum):
    """What happens to blocks that repeat one below them."""

    COPY = "copy"
    ZERO_OUTPUT = "silence"  # a copy whose branches add nothing
    REDRAW = "redraw"  # random


@dataclass(frozen=True)
class Depth:
    """The target's blocks from the bottom up: the source block that each one copies, and how."""

    blocks: tuple[int, ...]
    treatment: Treatment = Treatment.COPY

    @property
    def fresh(self) -> np.ndarray:
        """Blocks that repeat one below them, bool."""
        return np.array([block in self.blocks[:position] for position, block in enumerate(self.blocks)])


@dataclass(frozen=True)
class GrowthPlan:
    """Growth from `source` to `target`."""

    source: Model
    target: Model
    depth: Depth
    width: Mapping[str, Units] = field(default_factory=dict)
    masked: bool = False  # new units and blocks are under masks, which then scale the residual stream
    mixed: bool = False  # the plan is only the initial value of learned maps, which will mix units and blocks

    @property
    def is_identity(self) -> bool:
        """Whether the target is the source: of its sizes, with its blocks in their order."""
        same = all(getattr(self.source, name) == getattr(self.target, name) for name in SIZES)
        return same and self.depth.blocks == tuple(range(self.source.n_layers))

    @property
    def stream(self) -> float:
        """The factor of the residual stream, before division by the square root of a unit's copies.

        The mean square of x over d units does not change when they are written to D units as
        x_i sqrt(D / d) / sqrt(copies of i), whatever the copies. So norms divide by the same, epsilon included, and
        their scales take the factor back: sqrt(d / D), where there are no copies.
        """
        grows = "embed" in self.width and not self.masked
        return math.sqrt(self.target.d_model / self.source.d_model) if grows else 1.0


Planner = Callable[[Any, Model, Model], GrowthPlan]
"""(operator, source, target) -> plan. Raises UserError where the operator cannot grow one into the other."""


# ---- whether one model can grow into another ----


WIDTHS = ("d_model", "n_heads", "n_kv_heads", "d_ff")
SIZES = ("n_layers", *WIDTHS, "vocab_size")
"""What growth can make larger."""

# What growth cannot change, as the parameters were trained for it.
_SAME = (
    "head_dim", "block", "parallel_norms", "norm", "norm_epsilon", "norm_position", "qk_norm",
    "qk_norm_over", "bias", "activation", "rope_base", "rope_scaling", "rope_fraction", "local_rope_base",
    "tie_embeddings", "embedding_scale", "logit_scale", "logit_soft_cap", "attention_scale", "attention_soft_cap",
)  # fmt: skip


def require_growth(source: Model, target: Model) -> None:
    """Raise UserError where `target` is smaller than `source` in some size, or differs in what growth cannot change."""
    for name in _SAME:
        if name == "embedding_scale" and source.d_model != target.d_model:
            continue  # where it is sqrt(d_model) it follows; the embedding takes it back
        if (old := getattr(source, name)) != (new := getattr(target, name)):
            raise UserError(f"{name} goes from {old!r} to {new!r}, which growth cannot do; use {name}={old!r} in both")
    for name in SIZES:
        if (new := getattr(target, name)) < (old := getattr(source, name)):
            raise UserError(f"{name} goes from {old} to {new}, but growth makes nothing smaller; use {old} or more")
    _require_widths_that_norms_allow(source, target)


def _require_widths_that_norms_allow(source: Model, target: Model) -> None:
    """Raise UserError where a norm over all heads, or one after a branch, would compute something else."""
    heads, new_heads = (f"{m.n_heads} and {m.n_kv_heads}" for m in (source, target))
    if source.qk_norm_over is not None and heads != new_heads:
        raise UserError(
            f"n_heads and n_kv_heads go from {heads} to {new_heads}, which growth cannot do with qk_norm_over="
            f"{source.qk_norm_over!r}: new heads change the mean square of the old ones; use {heads} in both"
        )
    if source.norm == "layer" and source.norm_position is not None and target.d_model != source.d_model:
        raise UserError(
            f"d_model goes from {source.d_model} to {target.d_model}, which growth cannot do with norm='layer' and "
            f"norm_position={source.norm_position!r}; use d_model={source.d_model} in both"
        )


def require_same_vocabulary(kind: str, source: Model, target: Model) -> None:
    """Raise UserError where the vocabulary grows, for an operator of depth or width."""
    if (old := source.vocab_size) != (new := target.vocab_size):
        raise UserError(
            f"operator {kind!r} does not grow the vocabulary, but vocab_size goes from {old} to {new}; use vocab_size="
            f"{old} in both, or a stage of its own before it with operator=VocabularyGrowth()"
        )


def require_vocabulary_alone(kind: str, source: Model, target: Model) -> None:
    """Raise UserError where something else than the vocabulary grows."""
    for name in ("n_layers", *WIDTHS):
        if (old := getattr(source, name)) != (new := getattr(target, name)):
            raise UserError(
                f"operator {kind!r} grows vocab_size alone, but {name} goes from {old} to {new}; use {name}={old}, and "
                "a stage of its own for the rest"
            )


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
    """Return the ratio of the layers of `target` and `source`. Raises UserError where it is not an integer."""
    times, rest = divmod(target.n_layers, source.n_layers)
    if rest:
        low, high = times * source.n_layers, (times + 1) * source.n_layers
        raise UserError(
            f"operator {kind!r} repeats all blocks, but n_layers goes from {source.n_layers} to {target.n_layers}; use "
            f"n_layers={low} or {high}, or operator=BlockOrder(order=...)"
        )
    return times


# ---- whether a plan preserves the function: the same logits, except for rounding ----


def is_function_preserving(plan: GrowthPlan) -> bool:
    """Whether the grown model computes the same function at first, under its masks if it has any, without noise.

    New ids take a part of the probability, so a grown vocabulary is another function, though its old logits stay.
    """
    if "vocab" in plan.width:
        return False
    return _preserves_depth(plan) and _preserves_stream(plan) and not (plan.mixed and plan.width)


def new_ids_share(plan: GrowthPlan) -> float | None:
    """Return the most probability that a vocabulary's new ids together get at first; None where nothing bounds it.

    The logit of a row that is the mean of the V old ones is the mean of their logits, and exp is convex: so each of k
    new ids gets at most the mean of the old ones' exponentials, and all get at most k / (V + k). A soft cap of the
    logits comes after the product, so that this does not hold.
    """
    units = plan.width.get("vocab")
    if units is None or units.written is not Fill.MEAN or plan.target.logit_soft_cap is not None:
        return None
    return float(units.new.sum() / units.index.size)


def describe_width(plan: GrowthPlan) -> list[str]:
    """Describe each axis of units that grows, a line each."""
    names = {"embed": "d_model", "mlp": "d_ff", "heads": "n_heads", "kv": "n_kv_heads", "vocab": "vocab_size"}
    lines = []
    for axis, units in plan.width.items():
        copies = np.bincount(units.index[~units.new], minlength=units.old)
        counts = ", ".join(f"{(copies == times).sum()} {times} times" for times in np.unique(copies))
        lines.append(f"{names[axis]} {units.old} → {units.index.size}: {counts}; {units.new.sum()} new")
        if axis == "vocab":
            share = new_ids_share(plan)
            bound = "" if share is None else f"; the new ones together get at most {share:.2g} of the probability"
            lines.append(f"the logits of old ids stay{bound}")
    return lines


def _preserves_depth(plan: GrowthPlan) -> bool:
    """Whether old blocks keep their order and windows, and new ones add nothing."""
    fresh = plan.depth.fresh
    old_blocks = [block for block, new in zip(plan.depth.blocks, fresh, strict=True) if not new]
    if old_blocks != list(range(plan.source.n_layers)) or (fresh.any() and plan.depth.treatment is Treatment.COPY):
        return False
    kept = [w for w, new in zip(windows_of_layers(plan.target), fresh, strict=True) if not new]
    return kept == windows_of_layers(plan.source)


def _preserves_stream(plan: GrowthPlan) -> bool:
    """Whether norms compute the same as before. Heads and units of the MLP are exact in every plan."""
    units = plan.width.get("embed")
    if units is None or plan.source.norm == "rms":
        return True
    even = np.unique(units.copies).size == 1
    return even and not (units.new.any() and (plan.masked or units.written is not Fill.MEAN))


def windows_of_layers(model: Model) -> list[int | None]:
    """Return the window of each layer."""
    pattern = model.window or (None,)
    return list(pattern) * (model.n_layers // len(pattern))


def windows_of_copies(plan: GrowthPlan) -> list[int | None]:
    """Return for each block of the target the window with which the block that it copies was trained."""
    windows = windows_of_layers(plan.source)
    return [windows[block] for block in plan.depth.blocks]


def shortest_pattern(windows: Sequence[int | None]) -> tuple[int | None, ...] | None:
    """Return the windows of layers as `Model.window` has them: as the shortest pattern that repeats."""
    lengths = (n for n in range(1, len(windows) + 1) if len(windows) % n == 0)
    pattern = next(p for n in lengths if (p := tuple(windows[:n])) * (len(windows) // n) == tuple(windows))
    return None if pattern == (None,) else pattern


# ---- padding, for ZeroInit and MaskedGrowth: old units and blocks do not change, new ones are added ----


def padded_blocks(config: ZeroInit | MaskedGrowth, source: Model, target: Model) -> tuple[int, ...]:
    """List any number of blocks: new ones on top in the old order, or each after the old one that it repeats."""
    layers = np.arange(target.n_layers)
    if config.order == "stack":
        return tuple((layers % source.n_layers).tolist())
    return tuple((layers * source.n_layers // target.n_layers).tolist())


def padded_width(source: Model, target: Model, *, written: Fill, unread: Fill) -> dict[str, Units]:
    """Add new units after the old ones; query heads within each group that shares a key/value head.

    `written`: what is written to new units of the residual stream at first. `unread`: how new heads and units of the
    MLP are read. Raises UserError where a group gets fewer query heads than it has.
    """
    width = {}
    if source.d_model != target.d_model:
        width["embed"] = Units(append_units(source.d_model, target.d_model), source.d_model, written=written)
    if source.d_ff != target.d_ff:
        width["mlp"] = Units(append_units(source.d_ff, target.d_ff), source.d_ff, read=unread)
    if (source.n_heads, source.n_kv_heads) != (target.n_heads, target.n_kv_heads):
        group, new_group = source.n_heads // source.n_kv_heads, target.n_heads // target.n_kv_heads
        if new_group < group:
            raise UserError(
                f"{group} query heads share a key/value head, but of {target.n_heads} and {target.n_kv_heads} only "
                f"{new_group} do; use n_heads={group * target.n_kv_heads} or more, or operator=Net2Net()"
            )
        kv, member = np.divmod(np.arange(target.n_heads), new_group)
        heads = np.where((kv < source.n_kv_heads) & (member < group), kv * group + member, -1)
        width["heads"] = Units(heads, source.n_heads, read=unread)
        width["kv"] = Units(append_units(source.n_kv_heads, target.n_kv_heads), source.n_kv_heads)
    return width


def append_units(old: int, new: int) -> np.ndarray:
    units = np.arange(new)
    return np.where(units < old, units, -1)
