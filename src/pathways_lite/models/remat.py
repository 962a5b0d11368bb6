"""Rematerialization: which results of a block's forward pass are saved for its backward pass.

The residual stream at every block's input is always saved. Gathered weights never are: a backward pass that saved them
would hold the whole model on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from pathways_kernels.attention import CHECKPOINT_NAME
from pathways_lite.parallel.sharded_ops import WEIGHT
from pathways_lite.recipe import Remat

ATTENTION = ("q", "k", "v", CHECKPOINT_NAME)
MLP = ("gate", "up")

SAVED: dict[Remat, tuple[str, ...]] = {
    "full": (),
    "attention": ATTENTION,
    "up": (*ATTENTION, "up"),
    "dots": (*ATTENTION, *MLP),
}
"""Names of the results that each policy saves."""


def rematerialized(block: Callable[..., Any], policy: Remat, *, gathers: bool, scanned: bool) -> Callable[..., Any]:
    """Wrap `block` in the policy `recipe.Model.remat`; `gathers`: its weights are gathered from other devices."""
    policies = jax.checkpoint_policies
    match policy:
        case "none" if not gathers:
            return block
        case "none":
            saveable = policies.save_anything_except_these_names(WEIGHT)
        case "offload":
            saveable = policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[],
                names_which_can_be_offloaded=[*ATTENTION, *MLP],
                offload_src="device",
                offload_dst="pinned_host",
            )
        case _:
            saveable = policies.save_only_these_names(*SAVED[policy])
    # A scan keeps XLA from merging the recomputation with the original; without one, a barrier has to.
    return jax.checkpoint(block, policy=saveable, prevent_cse=not scanned)
