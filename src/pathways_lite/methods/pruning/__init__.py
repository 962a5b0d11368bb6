"""Sparse pretraining: prune a growing share of the weights while the model trains (docs/sparse.md)."""

from pathways_lite.methods.pruning.schedules import DensitySchedule, num_kept
from pathways_lite.methods.pruning.structures import (
    GroupArray,
    PruneGroup,
    density_phases,
    input_axis,
    mean_flops_per_token,
    prune_groups,
)
from pathways_lite.methods.pruning.transform import PruneState, apply_masks, prune

__all__ = [
    "DensitySchedule", "GroupArray", "PruneGroup", "PruneState", "apply_masks", "density_phases", "input_axis",
    "mean_flops_per_token", "num_kept", "prune", "prune_groups",
]  # fmt: skip
