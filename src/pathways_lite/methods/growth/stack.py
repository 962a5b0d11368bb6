"""G_stack: the blocks 1 .. l, g times on top of each other (Du et al. 2024, arXiv 2405.15319, algorithm 1).

Embedding, final norm and head are copied, nothing is rescaled. The function changes: the loss jumps at first (their
appendix K).
"""

from __future__ import annotations

from pathways_lite.methods.growth.plan import Depth, Plan
from pathways_lite.methods.growth.sizes import require_depth_alone, times_deeper
from pathways_lite.recipe import Model, Stack


def plan(config: Stack, source: Model, target: Model) -> Plan:
    """[0 .. l-1] g times. Raises UserError where l does not divide the target's layers."""
    require_depth_alone(config.kind, source, target)
    return Plan(source, target, Depth(tuple(range(source.n_layers)) * times_deeper(config.kind, source, target)))
