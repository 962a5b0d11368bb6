"""Plugins that recipes name: an optimizer, a schedule, a rule of sample weights, a growth operator."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from pathways_lite.errors import UserError
from pathways_lite.recipe import Model, OperatorPlugin, OptimizerPlugin, RulePlugin, SchedulePlugin


class SignMomentum(OptimizerPlugin):
    """The sign of the momentum."""

    kind: Literal["demo_sign"] = "demo_sign"
    momentum: float = Field(0.9, ge=0, lt=1, description="decay of the momentum")

    def direction(self, axes: Any) -> Any:
        return optax.chain(optax.trace(self.momentum), optax.stateless(lambda grads, _: jax.tree.map(jnp.sign, grads)))


class Stairs(SchedulePlugin):
    """A fall to 0 in equal steps."""

    kind: Literal["demo_stairs"] = "demo_stairs"
    steps: int = Field(4, ge=1, description="of equal length; the last one is at 1 / steps")

    def shape(self, fraction: Any) -> Any:
        return 1 - jnp.minimum(jnp.floor(fraction * self.steps), self.steps - 1) / self.steps


class HarderHalf(RulePlugin):
    """Weight for the samples whose loss is at least the mean."""

    kind: Literal["demo_harder_half"] = "demo_harder_half"

    def weights(self, losses: Any, sizes: Any) -> Any:
        mean = jnp.sum(sizes * losses) / jnp.maximum(jnp.sum(sizes), 1.0)
        return jnp.where(losses >= mean, 1.0, 0.0)


class Repeat(OperatorPlugin):
    """Copies of the last block on top."""

    kind: Literal["demo_repeat"] = "demo_repeat"

    def plan(self, source: Model, target: Model) -> Any:
        from pathways_lite.methods.growth import GrowthPlan
        from pathways_lite.methods.growth.plan import Depth

        if source.model_copy(update={"n_layers": target.n_layers}) != target:
            raise UserError("demo_repeat grows the number of layers alone")
        return GrowthPlan(source, target, Depth(tuple(min(i, source.n_layers - 1) for i in range(target.n_layers))))
