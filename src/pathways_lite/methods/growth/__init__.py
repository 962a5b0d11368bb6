"""Model growth: operators that make a larger model of a smaller one (docs/growth.md)."""

from pathways_lite.methods.growth.apply import Place, anywhere, copies, grow_array
from pathways_lite.methods.growth.blocks import connection_rate
from pathways_lite.methods.growth.exact import describe_width, preserves
from pathways_lite.methods.growth.grow import carried_out, grow, plan_start, whole_array
from pathways_lite.methods.growth.guidelines import Advice, advise, growth_factor, growth_timing
from pathways_lite.methods.growth.learned import Maps, has_maps, initial_maps, map_flops, mapped
from pathways_lite.methods.growth.masks import Masks, masks
from pathways_lite.methods.growth.plan import Plan
from pathways_lite.methods.growth.registry import PLANNERS, plan_of

__all__ = [
    "PLANNERS", "Advice", "Maps", "Masks", "Place", "Plan", "advise", "anywhere", "carried_out",
    "connection_rate", "copies", "describe_width", "grow", "grow_array", "growth_factor", "growth_timing",
    "has_maps", "initial_maps", "map_flops", "mapped", "masks", "plan_of", "plan_start", "preserves", "whole_array",
]  # fmt: skip
