"""Carrying a plan out: every array of the target from the one of that name in the source.

An array is grown by itself, and of stacked blocks any number at a time, with random numbers that depend on the key,
the array's name and the block: the whole tree in one jitted function on a mesh, and block by block from disk to disk,
give the same.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.methods.growth.ligo import apply_maps, initial_maps
from pathways_lite.methods.growth.operators import plan_operator
from pathways_lite.methods.growth.plan import Fill, GrowthPlan, Treatment, Units
from pathways_lite.models.params import AxisRole, ParamSpec, param_specs
from pathways_lite.recipe import Grow, LiGO, Model, Operator

Placement = Callable[[jax.Array, tuple[str, ...], int | None], jax.Array]
"""(array, its logical axes, one of them or None) -> the same array; on a mesh, spread as parameters are, but for that
axis, which is whole on every device while another one is spread in its stead."""


def unplaced(x: jax.Array, axes: tuple[str, ...], whole: int | None) -> jax.Array:
    """On one device."""
    return x


@dataclass(frozen=True)
class ParamGrower:
    """One array on its way: `part` of the blocks, or the array itself where it is not stacked.

    Attributes:
      keys: a random key for each block, [n], or one.
      moment: 0 for parameters; 1 and 2 for an optimizer's averages of gradients and of their squares, which are
        scaled as the parameters are, and as their squares are; where something is new, they are zero.
    """

    plan: GrowthPlan
    array: ParamSpec
    keys: jax.Array
    moment: int = 0
    place: Placement = unplaced

    def widen(self, x: jax.Array) -> jax.Array:
        """`x` [n, ...] or [...] in the source's widths, in the target's."""
        grown = [(at, units) for at, axis in enumerate(self.array.axes) if (units := self.plan.width.get(axis))]
        drawn, held = np.zeros((), bool), np.zeros((), bool)
        y = x
        for at, units in grown:
            use = self.array.use(self.array.axes[at])
            fill = {AxisRole.WRITES: units.written, AxisRole.READS: units.read, AxisRole.SCALES: Fill.RANDOM}[use]
            new = self._along(at, units.new)
            y = self._copied(y, at, units, use, fill)
            drawn, held = (drawn | new, held) if fill is Fill.RANDOM else (drawn, held | new)
        random = drawn & ~held
        return jnp.where(random, self.initial(), y) if random.any() else y

    def _copied(self, x: jax.Array, at: int, units: Units, use: AxisRole, fill: Fill) -> jax.Array:
        """`x` with the units of the source along axis `at` in the places of their copies."""
        axis = at + self.array.stacked
        names = ("layers",) * self.array.stacked + self.array.axes
        x = self.place(x, names, axis)
        factor = self._factor(units, use, at) ** max(self.moment, 1)
        y = self.place(jnp.take(x, units.sources, axis=axis), names, axis) * factor
        if units.new.any():
            mean = fill is Fill.MEAN and not self.moment
            missing = jnp.mean(x, axis=axis, keepdims=True) * factor if mean else 0.0
            y = jnp.where(self._along(at, units.new), missing, y)
        return self.place(y, names, None)

    def _factor(self, units: Units, use: AxisRole, at: int) -> jax.Array:
        """What copies along axis `at` are multiplied with."""
        stream = self.array.axes[at] == "embed" and not self.plan.masked
        written = self.plan.stream / np.sqrt(units.copies) if stream else np.ones(units.index.shape)
        if self.array.name == "final_norm.scale":
            return self._along(at, self._logits()) * self._along(at, 1.0 / written) * self._tied(units, at, written)
        if use is AxisRole.WRITES:
            return self._along(at, written)
        return self._along(at, 1.0 / written) if use is AxisRole.SCALES else self._shares(units, at)

    def _tied(self, units: Units, at: int, written: np.ndarray) -> jax.Array:
        """A tied embedding is read as it is written, so that the final norm divides by what that multiplies by."""
        if not self.plan.target.tie_embeddings:
            return jnp.ones(())
        return self._shares(units, at) * self._along(at, 1.0 / written)

    def _logits(self) -> np.ndarray:
        """What the scale of the logits loses. Under masks, these take up what of it comes from d_model."""
        source, target = self.plan.source, self.plan.target
        lost = source.resolved_logit_scale / target.resolved_logit_scale
        if self.plan.masked and target.tie_embeddings:
            lost *= math.sqrt(source.d_model / target.d_model)
        return np.full(target.d_model, lost)

    def _shares(self, units: Units, at: int) -> jax.Array:
        """How the weight of each old unit is divided among its copies; the shares of each add up to 1."""
        if units.split == "even" or (units.copies == 1).all():
            return self._along(at, 1.0 / units.copies)

        parts = jnp.where(units.new, 0.0, 0.5 + draw(jax.random.uniform, self.keys, at, units.index.shape))
        sums = jnp.zeros((*parts.shape[:-1], units.old)).at[..., units.sources].add(parts)
        return self._along(at, parts / jnp.take(sums, units.sources, axis=-1))

    def _along(self, at: int, values: Any) -> Any:
        """`values` [size], or [n, size] for each block, to be broadcast along axis `at`."""
        after = len(self.array.axes) - at - 1
        before = at + (self.array.stacked and values.ndim == 1)
        shape = (*values.shape[:-1], *[1] * (before if values.ndim == 1 else at), values.shape[-1], *[1] * after)
        return values.reshape(shape)

    def initial(self, noise_std: float | None = None) -> jax.Array:
        """As the model's initialisation draws it (or N(0, noise_std^2)): [n, ...] or [...]; of moments, zero."""
        if self.moment:
            return jnp.zeros(self.array.shape)
        if self.array.is_scale:
            return jnp.ones(self.array.shape)
        std = self.array.fan_in**-0.5 if self.plan.target.init == "palm" else 0.02
        std, stream = (std, 1000) if noise_std is None else (noise_std, 1001)
        return std * draw(jax.random.normal, self.keys, stream, self.array.shape)

    def apply_treatment(self, x: jax.Array, fresh: jax.Array, noise: float) -> jax.Array:
        """Blocks [n, ...]; `fresh` bool [n] says which of them are not the first copy of theirs."""
        treatment, kernel = self.plan.depth.treatment, not self.array.is_scale
        fresh = fresh.reshape(-1, *[1] * len(self.array.axes))
        if treatment is Treatment.REDRAW:
            return jnp.where(fresh, self.initial(), x)
        if treatment is Treatment.ZERO_OUTPUT and self.array.is_output:
            return jnp.where(fresh, 0.0, x)
        if treatment is Treatment.COPY and noise and kernel and not self.moment:
            return jnp.where(fresh, (1.0 - noise) * x + noise * self.initial(self._noise_std()), x)
        return x

    def _noise_std(self) -> float:
        """Du et al. 2024, arXiv 2405.15319, appendix I.2: variance 1/(d l^2) of outputs, 2/(5 d) elsewhere."""
        d, layers = self.plan.target.d_model, self.plan.target.n_layers
        return math.sqrt(1.0 / (d * layers**2) if self.array.is_output else 2.0 / (5.0 * d))


def is_plain_copy(plan: GrowthPlan, array: ParamSpec, noise: float) -> bool:
    """Whether growth does no more with the array than copy it, or blocks of it."""
    if any(axis in plan.width for axis in array.axes):
        return False
    if not array.stacked or not plan.depth.fresh.any():
        return True
    treatment = plan.depth.treatment
    changed = array.is_output if treatment is Treatment.ZERO_OUTPUT else treatment is Treatment.REDRAW
    return not (changed or (noise and not array.is_scale))


def draw(distribution: Callable[..., jax.Array], keys: jax.Array, stream: int, shape: tuple[int, ...]) -> jax.Array:
    """float32 of a distribution of `jax.random`, [*keys' shape, *shape]."""
    one = lambda key: distribution(jax.random.fold_in(key, stream), shape, jnp.float32)  # noqa: E731
    return jax.vmap(one)(keys) if keys.ndim else one(keys)


def grow_blocks(
    plan: GrowthPlan,
    array: ParamSpec,
    x: jax.Array,
    key: jax.Array,
    *,
    blocks: jax.Array | None = None,
    fresh: jax.Array | None = None,
    noise: float = 0.0,
    moment: int = 0,
    place: Placement = unplaced,
) -> jax.Array:
    """The target's array, in the dtype of the source's.

    Args:
      x: the source's array; of stacked blocks, those that the target's `blocks` copy, [n, ...].
      blocks: int32 [n], numbers of the target's blocks; None: not stacked.
      fresh: bool [n], which of these are not the first copy of theirs.
    """
    key = jax.random.fold_in(key, zlib.crc32(array.name.encode()))
    keys = key if blocks is None else jax.vmap(lambda block: jax.random.fold_in(key, block))(blocks)
    growing = ParamGrower(plan, array, keys, moment, place)
    y = growing.widen(x)
    if fresh is not None:
        y = growing.apply_treatment(y, fresh, noise)
    return y.astype(x.dtype)


# Growth of a whole model, and of the optimizer's moments with it, as pure functions of stacked parameters.


def grow(operator: Operator, params: Any, source: Model, target: Model, key: jax.Array, *, noise: float = 0.0) -> Any:
    """The target's parameters of the source's; a learned operator's maps are those that they begin as.

    Raises UserError where the operator cannot make one model of the other. Jit it with shardings for a mesh.
    """
    plan = plan_growth(Grow(operator=operator, noise=noise), source, target)
    if isinstance(operator, LiGO):
        return apply_maps(plan, initial_maps(plan, key), params)
    return grow_params(plan, params, key, noise=noise)


def plan_growth(start: Grow, source: Model, target: Model) -> GrowthPlan:
    """The plan of a stage's start. Raises UserError where the models do not fit it, or there is nothing to be noisy."""
    plan = plan_operator(start.operator, source, target)
    copies = plan.depth.fresh.any() and plan.depth.treatment is Treatment.COPY and not plan.mixed
    if start.noise and not copies:
        raise UserError(f"noise={start.noise} falls on copies of blocks, of which this growth makes none; use noise=0")
    return plan


def grow_params(
    plan: GrowthPlan,
    params: Any,
    key: jax.Array,
    *,
    noise: float = 0.0,
    moment: int = 0,
    place: Placement = unplaced,
) -> Any:
    """A tree of parameters, or a part of it, grown; see `grow_param`."""

    def one(array: ParamSpec, x: jax.Array) -> jax.Array:
        return grow_param(plan, array, x, key, noise=noise, moment=moment, place=place)

    return jax.tree.map(one, param_specs(plan.target), params)


def grow_param(
    plan: GrowthPlan, array: ParamSpec, x: jax.Array, key: jax.Array, *, noise: float, moment: int, place: Placement
) -> jax.Array:
    """One array, all of its blocks; see `apply.ParamGrower` for `moment`."""
    if not array.stacked:
        return grow_blocks(plan, array, x, key, moment=moment, place=place)
    if plan.depth.blocks != tuple(range(plan.source.n_layers)):
        x = jnp.take(x, np.array(plan.depth.blocks), axis=0)
    blocks, fresh = jnp.arange(len(plan.depth.blocks)), jnp.asarray(plan.depth.fresh)
    return grow_blocks(plan, array, x, key, blocks=blocks, fresh=fresh, noise=noise, moment=moment, place=place)
