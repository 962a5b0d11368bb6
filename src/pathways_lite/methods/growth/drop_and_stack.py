"""Depth up-scaling (SOLAR 10.7B, Kim et al. 2023, arXiv 2312.15166): two copies that overlap.

Of l layers one copy loses its last m and the other its first m, and the second goes on top of the first: 2 (l - m)
layers, where the seam skips as little as possible (32 layers, m = 8: 48).
"""

from __future__ import annotations

from pathways_lite.errors import UserError
from pathways_lite.methods.growth.plan import Depth, Plan
from pathways_lite.methods.growth.sizes import require_depth_alone
from pathways_lite.recipe import DropAndStack, Model


def plan(config: DropAndStack, source: Model, target: Model) -> Plan:
    """m follows from the target's layers. Raises UserError where they are odd, or more than 2 l."""
    require_depth_alone(config.kind, source, target)
    kept, odd = divmod(target.n_layers, 2)
    if odd or kept > source.n_layers:
        raise UserError(
            f"operator {config.kind!r} makes two copies of at most {source.n_layers} layers each, but the model has "
            f"{target.n_layers}; use an even n_layers up to {2 * source.n_layers}"
        )
    dropped = source.n_layers - kept
    return Plan(source, target, Depth((*range(kept), *range(dropped, source.n_layers))))
