"""Interpolation: each block g times in its place (Du et al. 2024, arXiv 2405.15319, appendix H)."""

from __future__ import annotations

from pathways_lite.methods.growth.plan import Depth, Plan
from pathways_lite.methods.growth.sizes import require_depth_alone, times_deeper
from pathways_lite.recipe import Interpolate, Model


def plan(config: Interpolate, source: Model, target: Model) -> Plan:
    """0 g times, then 1 g times, ... Raises UserError where l does not divide the target's layers."""
    require_depth_alone(config.kind, source, target)
    times = times_deeper(config.kind, source, target)
    return Plan(source, target, Depth(tuple(block for block in range(source.n_layers) for _ in range(times))))
