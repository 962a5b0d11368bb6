"""Sparse pre-training: weights that are zero, more and more of them while a model is trained (docs/sparse.md)."""

from pathways_lite.methods.pruning.schedules import Densities, kept
from pathways_lite.methods.pruning.structures import Group, Member, groups_of, input_axis, mean_flops_per_token, phases
from pathways_lite.methods.pruning.transform import PruneState, prune, under_masks

__all__ = [
    "Densities", "Group", "Member", "PruneState", "groups_of", "input_axis", "kept", "mean_flops_per_token", "phases",
    "prune", "under_masks",
]  # fmt: skip
