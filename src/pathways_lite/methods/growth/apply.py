"""Apply a growth plan: build each target parameter, or moment of an optimizer, from the source's of the same name.

An array is grown by itself, and of stacked blocks any number at a time, with random numbers that depend on the key, the
array's name and the block. So the whole tree in one jitted function on a mesh, and block by block from disk to disk,
give the same.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.methods.growth.ligo import apply_maps, initial_maps
from pathways_lite.methods.growth.operators import plan_operator
from pathways_lite.methods.growth.plan import Fill, GrowthPlan, Treatment, Units
from pathways_lite.models.params import EMBEDDING, AxisRole, ParamSpec, param_specs
from pathways_lite.recipe import Grow, LiGO, Model, Operator


class Quantity(Enum):
    """What an array of the parameters' tree holds, which decides the factors of its copies."""

    PARAMETER = "parameter"
    GRADIENT = "gradient"  # or an average of gradients
    SQUARED_GRADIENT = "squared gradient"
    UPDATE = "update"  # in proportion to the parameter, as Adafactor's: copies take the parameter's factor


Placement = Callable[[jax.Array, tuple[str, ...], int | None], jax.Array]
"""(array, its logical axes, the number of one of them or None) -> the same array. On a mesh it is sharded as parameters
are, except for that axis, which is whole on every device while another axis is sharded instead."""


def unplaced(x: jax.Array, axes: tuple[str, ...], whole: int | None) -> jax.Array:
    """Return `x`: on one device there is nothing to place."""
    return x


@dataclass(frozen=True)
class ParamGrower:
    """Grows one array: n of its blocks, or all of it where it is not stacked.

    A gradient transforms inversely to its weight. Where c copies of a unit take the factor f each and the function is
    preserved, f times the copies' gradients adds up to the old gradient, and equal copies have equal ones: 1 / (f c).
    So gradients of weights that read copies (f = 1 / c) keep their size, and those of weights that write them shrink.
    Of uneven shares this is the mean over shares of the arrays that read the copies.

    Attributes:
      keys: a random key for each block, [n], or one.
      quantity: of anything but parameters, new units and blocks that start at random or add nothing get zeros.
    """

    plan: GrowthPlan
    array: ParamSpec
    keys: jax.Array
    quantity: Quantity = Quantity.PARAMETER
    place: Placement = unplaced

    def widen(self, x: jax.Array) -> jax.Array:
        """Widen `x` [n, ...] or [...] from the source's widths to the target's."""
        grown = [(axis, units) for axis, name in enumerate(self.array.axes) if (units := self.plan.width.get(name))]
        drawn, held = np.zeros((), bool), np.zeros((), bool)
        y = x
        for axis, units in grown:
            role = self.array.use(self.array.axes[axis])
            fill = {AxisRole.WRITES: units.written, AxisRole.READS: units.read}.get(role, Fill.RANDOM)
            new = self._along(axis, units.new)
            y = self._copy_units(y, axis, units, role, fill)
            drawn, held = (drawn | new, held) if fill is Fill.RANDOM else (drawn, held | new)
        random = drawn & ~held
        return jnp.where(random, self.initial(), y) if random.any() else y

    def _copy_units(self, x: jax.Array, number: int, units: Units, role: AxisRole, fill: Fill) -> jax.Array:
        """Copy the source's units along axis `number` to their positions in the target, and fill new ones."""
        axis = number + self.array.stacked
        names = ("layers",) * self.array.stacked + self.array.axes
        x = self.place(x, names, axis)
        factor = self._factor(units, role, number)
        y = self.place(jnp.take(x, units.sources, axis=axis), names, axis) * factor
        if units.new.any():
            mean = fill is Fill.MEAN and self.quantity is Quantity.PARAMETER
            missing = jnp.mean(x, axis=axis, keepdims=True) * factor if mean else 0.0
            y = jnp.where(self._along(number, units.new), missing, y)
        return self.place(y, names, None)

    def _factor(self, units: Units, role: AxisRole, axis: int) -> jax.Array:
        """The factor of copies along an axis."""
        if self.quantity in (Quantity.PARAMETER, Quantity.UPDATE):
            return self._weight_factor(units, role, axis)
        factor = self._along(axis, self._gradient_factor(units, role, axis))
        return factor**2 if self.quantity is Quantity.SQUARED_GRADIENT else factor

    def _weight_factor(self, units: Units, role: AxisRole, axis: int) -> jax.Array:
        written = self._written(units, axis)
        if self.array.is_final_norm:
            factor = self._along(axis, self._logit_scale()) * self._tied_factor(units, axis, written)
            if self.plan.target.tie_embeddings:
                factor = factor / self._embedding_factor()
            return factor if role is AxisRole.ADJUSTS else factor * self._along(axis, 1.0 / written)
        match role:
            case AxisRole.WRITES:
                return self._along(axis, written * self._embedding_factor())
            case AxisRole.SCALES:
                return self._along(axis, 1.0 / written)
            case AxisRole.ADJUSTS:
                return self._along(axis, np.ones(units.index.shape))
            case AxisRole.READS:
                shares = self._split(units, axis)
                return shares * self._along(axis, 1.0 / written) if self.array.reads_unnormalized else shares

    def _gradient_factor(self, units: Units, role: AxisRole, axis: int) -> np.ndarray:
        """1 / (f c), with f the weights' factor at even shares and c the number of copies, [size]."""
        if role is AxisRole.READS:
            return self._written(units, axis) if self.array.reads_unnormalized else np.ones(units.index.shape)
        written, shares = self._written(units, axis), 1.0 / units.copies
        if self.array.is_final_norm:
            tied = written if self.plan.target.tie_embeddings else shares
            tied = tied * self._embedding_factor() if self.plan.target.tie_embeddings else tied
            return (tied if role is AxisRole.ADJUSTS else tied * written) / self._logit_scale()
        if role is AxisRole.ADJUSTS:
            return shares
        return shares / (written * self._embedding_factor()) if role is AxisRole.WRITES else shares * written

    def _written(self, units: Units, axis: int) -> np.ndarray:
        """The factor with which units are written, [size]: that of the residual stream where they are its own."""
        stream = self.array.axes[axis] == "embed" and not self.plan.masked
        return self.plan.stream / np.sqrt(units.copies) if stream else np.ones(units.index.shape)

    def _tied_factor(self, units: Units, axis: int, written: np.ndarray) -> jax.Array:
        """The final norm's factor for a tied embedding: it is read as it is written, so the norm divides instead."""
        if not self.plan.target.tie_embeddings:
            return jnp.ones(())
        return self._split(units, axis) * self._along(axis, 1.0 / written)

    def _embedding_factor(self) -> float:
        """The factor of the embedding that keeps embedded tokens, whose scale may follow d_model; 1 elsewhere."""
        if self.array.name != EMBEDDING and not self.array.is_final_norm:
            return 1.0
        source, target = self.plan.source.embedding_scale, self.plan.target.embedding_scale
        return (1.0 if source is None else source) / (1.0 if target is None else target)

    def _logit_scale(self) -> np.ndarray:
        """The factor that keeps the scale of the logits. Under masks, the masks compensate what comes from d_model."""
        source, target = self.plan.source, self.plan.target
        lost = source.resolved_logit_scale / target.resolved_logit_scale
        if self.plan.masked and target.tie_embeddings:
            lost *= math.sqrt(source.d_model / target.d_model)
        return np.full(target.d_model, lost)

    def _split(self, units: Units, axis: int) -> jax.Array:
        """The fractions of each old unit's weight that its copies take; those of one unit add up to 1."""
        if units.split == "even" or (units.copies == 1).all():
            return self._along(axis, 1.0 / units.copies)

        fractions = jnp.where(units.new, 0.0, 0.5 + draw(jax.random.uniform, self.keys, axis, units.index.shape))
        sums = jnp.zeros((*fractions.shape[:-1], units.old)).at[..., units.sources].add(fractions)
        return self._along(axis, fractions / jnp.take(sums, units.sources, axis=-1))

    def _along(self, axis: int, values: Any) -> Any:
        """Reshape `values` [size], or [n, size] for each block, to broadcast along an axis."""
        after = len(self.array.axes) - axis - 1
        before = axis + (self.array.stacked and values.ndim == 1)
        shape = (*values.shape[:-1], *[1] * (before if values.ndim == 1 else axis), values.shape[-1], *[1] * after)
        return values.reshape(shape)

    def initial(self, noise_std: float | None = None) -> jax.Array:
        """Draw the array as the initialization does (or N(0, noise_std^2)), [n, ...] or [...]; zeros for moments."""
        if self.quantity is not Quantity.PARAMETER:
            return jnp.zeros(self.array.shape)
        if not self.array.is_matrix:
            return jnp.zeros(self.array.shape) if self.array.is_bias else jnp.ones(self.array.shape)
        std = self.array.fan_in**-0.5 if self.plan.target.init == "palm" else 0.02
        std, stream = (std, 1000) if noise_std is None else (noise_std, 1001)
        return std * draw(jax.random.normal, self.keys, stream, self.array.shape)

    def apply_treatment(self, x: jax.Array, fresh: jax.Array, noise: float) -> jax.Array:
        """Apply the plan's treatment of repeated blocks to blocks [n, ...]; `fresh` bool [n] says which ones repeat."""
        treatment, kernel = self.plan.depth.treatment, self.array.is_matrix
        fresh = fresh.reshape(-1, *[1] * len(self.array.axes))
        if treatment is Treatment.REDRAW:
            return jnp.where(fresh, self.initial(), x)
        is_parameter = self.quantity is Quantity.PARAMETER
        if treatment is Treatment.ZERO_OUTPUT and (self.array.is_output or not is_parameter):
            return jnp.where(fresh, 0.0, x)  # a block whose outputs are zero has no gradient but theirs
        if treatment is Treatment.COPY and noise and kernel and is_parameter:
            return jnp.where(fresh, (1.0 - noise) * x + noise * self.initial(self._noise_std()), x)
        return x

    def _noise_std(self) -> float:
        """Du et al. 2024, arXiv 2405.15319, appendix I.2: variance 1/(d l^2) of outputs, 2/(5 d) elsewhere."""
        d, layers = self.plan.target.d_model, self.plan.target.n_layers
        return math.sqrt(1.0 / (d * layers**2) if self.array.is_out_projection else 2.0 / (5.0 * d))


def is_plain_copy(plan: GrowthPlan, array: ParamSpec, noise: float) -> bool:
    """Whether growth only copies the array, or blocks of it."""
    if any(axis in plan.width for axis in array.axes):
        return False
    if not array.stacked or not plan.depth.fresh.any():
        return True
    treatment = plan.depth.treatment
    changed = array.is_output if treatment is Treatment.ZERO_OUTPUT else treatment is Treatment.REDRAW
    return not (changed or (noise and array.is_matrix))


def draw(distribution: Callable[..., jax.Array], keys: jax.Array, stream: int, shape: tuple[int, ...]) -> jax.Array:
    """Draw float32 numbers of a distribution of `jax.random`, [*keys' shape, *shape]."""
    draw_one = lambda key: distribution(jax.random.fold_in(key, stream), shape, jnp.float32)  # noqa: E731
    return jax.vmap(draw_one)(keys) if keys.ndim else draw_one(keys)


def grow_blocks(
    plan: GrowthPlan,
    array: ParamSpec,
    x: jax.Array,
    key: jax.Array,
    *,
    blocks: jax.Array | None = None,
    fresh: jax.Array | None = None,
    noise: float = 0.0,
    quantity: Quantity = Quantity.PARAMETER,
    place: Placement = unplaced,
) -> jax.Array:
    """Grow blocks of one array, or all of one that is not stacked, in the dtype of the source.

    Args:
      x: the source's array; of stacked blocks, the sources of the target's `blocks`, [n, ...].
      blocks: int32 [n], numbers of the target's blocks; None: not stacked.
      fresh: bool [n], whether a block repeats one below it.
    """
    key = jax.random.fold_in(key, zlib.crc32(array.name.encode()))
    keys = key if blocks is None else jax.vmap(lambda block: jax.random.fold_in(key, block))(blocks)
    growing = ParamGrower(plan, array, keys, quantity, place)
    y = growing.widen(x)
    if fresh is not None:
        y = growing.apply_treatment(y, fresh, noise)
    return y.astype(x.dtype)


# ---- whole models ----


def grow(operator: Operator, params: Any, source: Model, target: Model, key: jax.Array, *, noise: float = 0.0) -> Any:
    """Grow the source's parameters into the target's; LiGO's maps have their initial values.

    Raises UserError where the operator cannot grow one model into the other. Jit it with shardings for a mesh.
    """
    plan = plan_growth(Grow(operator=operator, noise=noise), source, target)
    if isinstance(operator, LiGO):
        return apply_maps(plan, initial_maps(plan, key), params)
    return grow_params(plan, params, key, noise=noise)


def plan_growth(start: Grow, source: Model, target: Model) -> GrowthPlan:
    """Plan a stage's start. Raises UserError where the models do not fit it, or `noise` has nothing to apply to."""
    plan = plan_operator(start.operator, source, target)
    has_copies = plan.depth.fresh.any() and plan.depth.treatment is Treatment.COPY and not plan.mixed
    if start.noise and not has_copies:
        raise UserError(f"noise={start.noise} is for copied blocks, of which this growth makes none; use noise=0")
    return plan


def grow_params(
    plan: GrowthPlan,
    params: Any,
    key: jax.Array,
    *,
    noise: float = 0.0,
    quantity: Quantity = Quantity.PARAMETER,
    place: Placement = unplaced,
) -> Any:
    """Grow a tree of parameters, or a subtree; see `grow_param`."""

    def grow_one(array: ParamSpec, x: jax.Array) -> jax.Array:
        return grow_param(plan, array, x, key, noise=noise, quantity=quantity, place=place)

    return jax.tree.map(grow_one, param_specs(plan.target), params)


def grow_param(
    plan: GrowthPlan,
    array: ParamSpec,
    x: jax.Array,
    key: jax.Array,
    *,
    noise: float,
    quantity: Quantity,
    place: Placement,
) -> jax.Array:
    """Grow one array, all of its blocks."""
    if not array.stacked:
        return grow_blocks(plan, array, x, key, quantity=quantity, place=place)
    if plan.depth.blocks != tuple(range(plan.source.n_layers)):
        x = jnp.take(x, np.array(plan.depth.blocks), axis=0)
    blocks, fresh = jnp.arange(len(plan.depth.blocks)), jnp.asarray(plan.depth.fresh)
    return grow_blocks(plan, array, x, key, blocks=blocks, fresh=fresh, noise=noise, quantity=quantity, place=place)
