"""Model growth: operators that make a larger model of a smaller one (docs/growth.md)."""

from pathways_lite.methods.growth.apply import (
    Placement,
    Quantity,
    grow,
    grow_blocks,
    grow_param,
    grow_params,
    is_plain_copy,
    plan_growth,
    unplaced,
)
from pathways_lite.methods.growth.guidelines import Advice, advise, growth_factor, growth_timing
from pathways_lite.methods.growth.ligo import Maps, apply_maps, has_maps, initial_maps, map_flops
from pathways_lite.methods.growth.masked_growth import GrowthMasks, build_masks, masks_end
from pathways_lite.methods.growth.operators import PLANNERS, connection_rate, plan_operator
from pathways_lite.methods.growth.plan import GrowthPlan, describe_width, is_function_preserving, new_ids_share

__all__ = [
    "PLANNERS", "Advice", "GrowthMasks", "GrowthPlan", "Maps", "Placement", "Quantity", "advise", "apply_maps",
    "build_masks", "connection_rate", "describe_width", "grow", "grow_blocks", "grow_param", "grow_params",
    "growth_factor", "growth_timing", "has_maps", "initial_maps", "is_function_preserving", "is_plain_copy",
    "map_flops", "masks_end", "new_ids_share", "plan_growth", "plan_operator", "unplaced",
]  # fmt: skip
