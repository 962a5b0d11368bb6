"""Larger budgets of stages that were begun: allowed where no step of the stage depends on how many there will be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pathways_lite.recipe import Constant, Fraction, Frozen, PaLM, Recipe, ResolvedBudget, Stage, stage_identity


def has_larger_budget(old: Recipe, new: Recipe, index: int) -> bool:
    """Return whether stage `index` of `new` is that of `old` with a larger budget, of which `old` computed the start.

    So it is where learning rates, mixtures and methods count steps, tokens or FLOPs from the stage's beginning. The
    checkpoints of `old` are then checkpoints of `new`.
    """
    before, after = old.stages[index].budget, new.stages[index].budget
    if not isinstance(before, ResolvedBudget) or before.kind != after.kind or after.n <= before.n:
        return False
    stages = list(old.stages)
    stages[index] = stages[index].copy_unchecked(budget=after)
    same = stage_identity(old.copy_unchecked(stages=tuple(stages)), index) == stage_identity(new, index)
    return same and ignores_budget(new.stages[index])


def ignores_budget(stage: Stage) -> bool:
    """Return whether the first steps of a stage are the same, however large its budget is."""
    if not isinstance(stage.optimizer.schedule, Constant | PaLM):
        return False
    if stage.pruning is not None or stage.reweighting is not None or stage.domain_weights is not None:
        return False
    return not any(isinstance(node, Fraction) and node.n for node in _nodes(stage))


def _nodes(node: Any) -> Iterator[Frozen]:
    if isinstance(node, Frozen):
        yield node
        for _, value in node:
            yield from _nodes(value)
    elif isinstance(node, tuple):
        for item in node:
            yield from _nodes(item)
