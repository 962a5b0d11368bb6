"""Partial stacking: the target's blocks as a list of the source's (Du et al. 2024, arXiv 2405.15319, appendix H)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pathways_lite.errors import UserError
from pathways_lite.methods.growth.plan import Depth, Plan
from pathways_lite.methods.growth.sizes import require_depth_alone
from pathways_lite.recipe import Blocks, Model, parse_blocks


def plan(config: Blocks, source: Model, target: Model) -> Plan:
    """The list as it stands. Raises UserError where it is not of the target's length or names a block too many."""
    require_depth_alone(config.kind, source, target)
    blocks = parse_blocks(config.order)
    if len(blocks) != target.n_layers:
        raise UserError(
            f"order={config.order!r} lists {len(blocks)} blocks, but the model has {target.n_layers} layers"
        )
    if max(blocks) >= source.n_layers:
        raise UserError(f"order={config.order!r} names block {max(blocks) + 1} of a model of {source.n_layers} layers")
    return Plan(source, target, Depth(blocks))


def connection_rate(blocks: Sequence[int]) -> float:
    """The share of neighbours in a list of blocks that are neighbours in the source, too (their appendix H).

    1 where there is one block. Stacking 6 layers 4 times keeps 20 of 23.
    """
    pairs = list(itertools.pairwise(blocks))
    return sum(b == a + 1 for a, b in pairs) / len(pairs) if pairs else 1.0
