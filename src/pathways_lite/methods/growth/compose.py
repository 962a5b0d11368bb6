"""Depth by one operator and width by another, in one step."""

from __future__ import annotations

from collections.abc import Callable

from pathways_lite.methods.growth.plan import Plan
from pathways_lite.methods.growth.sizes import WIDTHS
from pathways_lite.recipe import Compose, Model, Operator


def plan(config: Compose, source: Model, target: Model, plan_of: Callable[[Operator, Model, Model], Plan]) -> Plan:
    """Wider at the source's depth, then deeper at the target's width. Raises what the two operators raise."""
    wider = source.model_copy(update={name: getattr(target, name) for name in WIDTHS})
    width = plan_of(config.width, source, wider).width
    return Plan(source, target, plan_of(config.depth, wider, target).depth, width)
