"""Every operator by the kind that a recipe names. A new one is a file with a function `plan`, and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from pathways_lite.methods.growth import (
    blocks,
    compose,
    direct,
    drop_and_stack,
    interpolate,
    learned,
    random,
    stack,
    zero,
)
from pathways_lite.methods.growth.plan import Plan, Planner
from pathways_lite.methods.growth.sizes import require_growth
from pathways_lite.recipe import Model, Operator

PLANNERS: Mapping[str, Planner] = {
    "stack": stack.plan,
    "interpolate": interpolate.plan,
    "blocks": blocks.plan,
    "drop_and_stack": drop_and_stack.plan,
    "direct": direct.plan,
    "zero": zero.plan,
    "random": random.plan,
    "learned": learned.plan,
    "compose": lambda config, source, target: compose.plan(config, source, target, plan_of),
}


def plan_of(operator: Operator, source: Model, target: Model) -> Plan:
    """What the operator does to a model of `source`'s shape. Raises UserError where it cannot make `target` of it."""
    require_growth(source, target)
    return PLANNERS[operator.kind](operator, source, target)
