"""Factors of the learning rate and weight decays of parameter groups, as trees like what the optimizer trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.models.params import ParamSpec
from pathways_lite.models.trainable import EVERYTHING, Trainable, match_rows
from pathways_lite.recipe import Model, ParameterGroup, Stage

NO_GROUP = -1


class GroupFactors(NamedTuple):
    """Trees like the trained parameters; each leaf a number, or float32 [L, 1, ...] where layers differ."""

    rate: Any  # factor of the learning rate
    weight_decay: Any  # NaN where the group has none of its own


def group_factors(stage: Stage, trainable: Trainable = EVERYTHING) -> GroupFactors | None:
    """Return the factors of a stage's groups; None where it has none.

    Raises UserError where a group names no parameter, or none that is trained and in no group before it.
    """
    groups = stage.optimizer.groups
    if groups is None:
        return None
    where = f"stages.{stage.name}.optimizer.groups"
    group_of_row = _first_matches(stage.model, groups, where)
    seen = set()

    def pick(spec: ParamSpec, rows: tuple[int, ...] | None) -> np.ndarray:
        numbers = group_of_row[spec.name] if rows is None else group_of_row[spec.name][list(rows)]
        seen.update(numbers.tolist())
        return numbers

    numbers = trainable.map_rows(models.param_specs(stage.model), pick)
    for number, group in enumerate(groups):
        if number not in seen:
            raise UserError(
                f"{where}: the parameters {', '.join(group.parameters)} of group {number} are frozen, or in groups "
                "before it; the first group that names a parameter counts"
            )
    specs = trainable.arrays(models.param_specs(stage.model))
    decays = [np.nan if group.weight_decay is None else group.weight_decay for group in groups]
    return GroupFactors(
        jax.tree.map(lambda spec, rows: _leaf(spec, rows, [group.rate for group in groups], 1.0), specs, numbers),
        jax.tree.map(lambda spec, rows: _leaf(spec, rows, decays, np.nan), specs, numbers),
    )


def _first_matches(model: Model, groups: tuple[ParameterGroup, ...], where: str) -> dict[str, np.ndarray]:
    """Return the number of the first group of each row of each array, `NO_GROUP` where there is none."""
    numbers = {
        spec.name: np.full(model.n_layers if spec.stacked else 1, NO_GROUP)
        for spec in jax.tree.leaves(models.param_specs(model))
    }
    for number, group in enumerate(groups):
        for pattern in group.parameters:
            for name, rows in match_rows(model, pattern, where).items():
                row_numbers = numbers[name]
                row_numbers[list(rows)] = np.where(row_numbers[list(rows)] == NO_GROUP, number, row_numbers[list(rows)])
    return numbers


def _leaf(spec: ParamSpec, numbers: np.ndarray, values: list[float], otherwise: float) -> Any:
    """Return the values of an array's rows: one number where all have the same."""
    factors = np.array([otherwise if number == NO_GROUP else values[number] for number in numbers], np.float32)
    if (numbers == numbers[0]).all():
        return float(otherwise if numbers[0] == NO_GROUP else values[numbers[0]])
    return factors.reshape(-1, *[1] * len(spec.shape))


# ---- transformations ----


def scale_rates(factors: GroupFactors) -> optax.GradientTransformation:
    """Multiply updates by their groups' factors of the learning rate."""
    return optax.stateless(
        lambda updates, _: map_present(lambda f, u: u if is_one(f) else f * u, factors.rate, updates)
    )


def add_group_decay(
    factors: GroupFactors, otherwise: float, mask: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """Add weight decay: the group's own, or `otherwise` where `mask(parameters)` is true."""

    def update(updates: Any, params: Any) -> Any:
        def add(decay: Any, masked: bool, u: jax.Array, p: jax.Array) -> jax.Array:
            own = np.where(np.isnan(decay), otherwise if masked else 0.0, decay)
            return u if not np.any(own) else u + (own.astype(np.float32) if own.ndim else float(own)) * p

        return map_present(add, factors.weight_decay, mask(params), updates, params)

    return optax.stateless(update)


def is_one(factor: Any) -> bool:
    """Whether a factor changes nothing."""
    return isinstance(factor, float) and factor == 1.0


def map_present(function: Callable[..., Any], factors: Any, *trees: Any) -> Any:
    """Map over trees in which `optax.partition` may have left out leaves."""

    def apply(factor: Any, *nodes: Any) -> Any:
        return nodes[0] if isinstance(nodes[0], optax.MaskedNode) else function(factor, *nodes)

    return jax.tree.map(apply, factors, *trees)
