"""Random growth under masks (Masked Structural Growth, Yao et al. 2023, arXiv 2305.02869).

What is new is drawn as the initialisation draws it. Masks keep it from adding anything at first; `masks.py` says how
they are ramped in.
"""

from __future__ import annotations

from pathways_lite.methods.growth.padding import padded_blocks, padded_width
from pathways_lite.methods.growth.plan import Depth, Fill, Plan, Treatment
from pathways_lite.recipe import Model, Random


def plan(config: Random, source: Model, target: Model) -> Plan:
    """Any sizes that are not smaller. Raises UserError where query heads do not fit their groups."""
    width = padded_width(source, target, written=Fill.RANDOM, unread=Fill.RANDOM)
    return Plan(source, target, Depth(padded_blocks(config, source, target), Treatment.REDRAW), width, masked=True)
