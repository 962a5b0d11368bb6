"""Model growth: operators that make a larger model of a smaller one (docs/growth.md)."""

from pathways_lite.methods.growth.apply import (
    Place,
    anywhere,
    carried_out,
    copies,
    grow,
    grow_array,
    plan_start,
    whole_array,
)
from pathways_lite.methods.growth.guidelines import Advice, advise, growth_factor, growth_timing
from pathways_lite.methods.growth.ligo import Maps, has_maps, initial_maps, map_flops, mapped
from pathways_lite.methods.growth.masked_growth import Masks, masks
from pathways_lite.methods.growth.operators import PLANNERS, connection_rate, plan_of
from pathways_lite.methods.growth.plan import Plan, describe_width, preserves

__all__ = [
    "PLANNERS", "Advice", "Maps", "Masks", "Place", "Plan", "advise", "anywhere", "carried_out",
    "connection_rate", "copies", "describe_width", "grow", "grow_array", "growth_factor", "growth_timing",
    "has_maps", "initial_maps", "map_flops", "mapped", "masks", "plan_of", "plan_start", "preserves", "whole_array",
]  # fmt: skip
