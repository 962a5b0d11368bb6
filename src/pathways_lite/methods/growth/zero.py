"""Zero growth: what is new adds nothing at first, and can learn (Du et al. 2024, arXiv 2405.15319, appendix A.4).

A new block is a copy of an old one whose attention and MLP write nothing. Nothing is written to new units of the
residual stream (the mean, where LayerNorm subtracts it again), and random weights read them. New heads and units of
the MLP are written at random, and not read. So every new unit has a gradient; were both sides zero, as they are in the
paper's form where d_model stays, the new units of a gated MLP would have none, ever.

Norms' scales take the paper's factor sqrt(d / D). That alone changes what the norms' epsilon is compared with; so the
old part of the residual stream is scaled by sqrt(D / d).
"""

from __future__ import annotations

from pathways_lite.methods.growth.padding import padded_blocks, padded_width
from pathways_lite.methods.growth.plan import Depth, Fill, Plan, Treatment
from pathways_lite.recipe import Model, Zero


def plan(config: Zero, source: Model, target: Model) -> Plan:
    """Any sizes that are not smaller. Raises UserError where query heads do not fit their groups."""
    written = Fill.MEAN if source.norm == "layer" else Fill.ZERO
    width = padded_width(source, target, written=written, unread=Fill.ZERO)
    return Plan(source, target, Depth(padded_blocks(config, source, target), Treatment.SILENCE), width)
