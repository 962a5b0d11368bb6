"""What the backward pass of a block keeps of the forward pass, and what it computes again.

The residual stream at every block's input is always kept. Gathered weights never are: a backward pass that kept them
would hold the whole model on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from pathways_kernels.attention import RESULTS
from pathways_lite.parallel.sharded_ops import WEIGHT
from pathways_lite.recipe import Remat

ATTENTION = ("q", "k", "v", RESULTS)
MLP = ("gate", "up")

KEPT: dict[Remat, tuple[str, ...]] = {
    "full": (),
    "attention": ATTENTION,
    "up": (*ATTENTION, "up"),
    "dots": (*ATTENTION, *MLP),
}
"""Names of what is kept under each policy that names it."""


def rematerialized(block: Callable[..., Any], policy: Remat, *, gathers: bool, scanned: bool) -> Callable[..., Any]:
    """`block` under a policy of `recipe.Model.remat`; `gathers`: whether its weights come from other devices."""
    policies = jax.checkpoint_policies
    match policy:
        case "none" if not gathers:
            return block
        case "none":
            chosen = policies.save_anything_except_these_names(WEIGHT)
        case "offload":
            chosen = policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[],
                names_which_can_be_offloaded=[*ATTENTION, *MLP],
                offload_src="device",
                offload_dst="pinned_host",
            )
        case _:
            chosen = policies.save_only_these_names(*KEPT[policy])
    # A scan keeps XLA from merging the recomputation with the original; without one, a barrier has to.
    return jax.checkpoint(block, policy=chosen, prevent_cse=not scanned)
