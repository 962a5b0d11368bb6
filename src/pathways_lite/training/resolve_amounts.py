"""Resolve what a stage's numbers refer to: budgets in epochs or of other stages, and learning rates of parents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pathways_lite.data.pipeline import windows_per_domain
from pathways_lite.data.store import MissingStoreError, open_store
from pathways_lite.errors import UserError
from pathways_lite.recipe import (
    Epochs,
    Flops,
    FractionOf,
    Muon,
    Optimizer,
    Recipe,
    ResolvedBudget,
    Stage,
    Tokens,
)
from pathways_lite.training.optimizers import learning_rate_fn
from pathways_lite.training.stage import stage_timeline

_SAME_RATE = 1e-5  # relative difference up to which a stored rate is the one that is computed here


# ---- budgets ----


def resolve_budgets(recipe: Recipe) -> Recipe:
    """Replace budgets in epochs and of other stages by tokens, steps or FLOPs.

    Raises UserError for a stage that is not there or depends on itself, and where the corpus of a stage with a budget
    in epochs is not there.
    """
    stages = tuple(
        stage
        if isinstance(stage.budget, ResolvedBudget)
        else stage.model_copy(update={"budget": _resolved_budget(recipe, stage, ())})
        for stage in recipe.stages
    )
    return recipe.copy_unchecked(stages=stages) if stages != recipe.stages else recipe


def _resolved_budget(recipe: Recipe, stage: Stage, waiting: tuple[str, ...]) -> ResolvedBudget:
    """Return a stage's budget; `waiting`: the stages whose budgets depend on it."""
    budget = stage.budget
    if isinstance(budget, Epochs):
        try:
            return Tokens(n=_epoch_sequences(stage, budget.n) * stage.data.seq_len)
        except MissingStoreError as error:
            field = f"stages.{stage.name}.budget={budget.n:g} epochs"
            raise MissingStoreError(
                f"{error}\n{field} counts its sequences; if it is elsewhere now, say where: "
                "'stages.*.data.corpus=PLACE', or give the budget in tokens"
            ) from error
    if not isinstance(budget, FractionOf):
        return budget
    others = {other.name: other for other in recipe.stages if other.name != stage.name}
    if budget.stage not in others or budget.stage in waiting:
        chain = (*waiting, stage.name)
        problem, free = "is of a stage that is not there", [*others]
        if budget.stage in chain:
            cycle = (*chain[chain.index(budget.stage) :], budget.stage)
            problem = "depends on itself" + (f" ({' of '.join(cycle)})" if len(cycle) > 2 else "")
            free = [name for name in others if not _leads_to(others[name], cycle, others)]
        raise UserError(
            f"stages.{stage.name}.budget={100 * budget.n:g} % of {budget.stage} {problem}; "
            + (f"name another stage ({', '.join(free)}), or " if free else "")
            + "write e.g. '300 steps'"
        )
    whole = _resolved_budget(recipe, others[budget.stage], (*waiting, stage.name))
    if isinstance(whole, Flops):
        return Flops(n=budget.n * whole.n)
    # Rounded before, as 0.1 times 30 is above 3.
    return type(whole)(n=max(1, math.ceil(round(budget.n * whole.n, 6))))


def _leads_to(stage: Stage, names: Sequence[str], stages: Mapping[str, Stage]) -> bool:
    """Return whether a stage is one of those named, or its budget depends on one, or on itself."""
    seen = set[str]()
    while stage.name not in names and stage.name not in seen:
        seen.add(stage.name)
        if not isinstance(stage.budget, FractionOf):
            return False
        if stage.budget.stage not in stages:
            return stage.budget.stage in names
        stage = stages[stage.budget.stage]
    return True


def _epoch_sequences(stage: Stage, epochs: float) -> int:
    """Return the number of sequences in a number of passes over the stage's corpus, at least one."""
    windows = sum(windows_per_domain(open_store(stage.data.corpus), stage.data.seq_len))
    epoch = max(1, round((stage.data.rs2_fraction or 1.0) * windows))
    return max(1, round(epochs * epoch))


# ---- learning rates ----


def held_optimizer(optimizer: Optimizer, parent: Stage, step: int, name: str) -> Optimizer:
    """Return an optimizer of `parent`'s kind whose peak is the rate at which `parent` was left, after `step` steps.

    `name`: of the stage that gets it. Raises UserError where that rate was zero.
    """
    rates = _left_rates(parent, step, f"stages.{name}.optimizer.learning_rate")
    # Schedules compute in float32: the shortest decimal that is the same there, 0.001 and not 0.0010000000474974513.
    rates = {field: float(str(np.float32(rate))) for field, rate in rates.items()}
    return optimizer.model_copy(update=rates | {"relative_learning_rate": None})


def _left_rates(parent: Stage, step: int, path: str) -> dict[str, float]:
    """Return the learning rates of the step that would follow `step` in `parent`. Raises UserError where they are 0."""
    timeline, optimizer = stage_timeline(parent), parent.optimizer
    last = float(learning_rate_fn(optimizer, timeline)(timeline.clock(step)))
    if not last > 0:
        raise UserError(
            f"{path}: stage {parent.name!r} was left at a learning rate of 0, which cannot be held; give one, e.g. "
            f"learning_rate={optimizer.learning_rate / 10:g}, or start from a checkpoint before the decay"
        )
    rates = {"learning_rate": last}
    if isinstance(optimizer, Muon):
        rates["adam_learning_rate"] = last / optimizer.learning_rate * optimizer.adam_learning_rate
    return rates


def with_relative_rate(stage: Stage, parent: Stage | None, step: int | None) -> Stage:
    """Fill in the learning rate of a stage that has it relative to where `parent` was left, after `step` steps.

    Raises UserError where there is no parent or it has another optimizer, where its rate was zero or is not known yet
    (`step` is None), and where the recipe also says another learning rate.
    """
    optimizer, factor = stage.optimizer, stage.optimizer.relative_learning_rate
    if factor is None:
        return stage
    path = f"stages.{stage.name}.optimizer.relative_learning_rate={factor:g}"
    if parent is None or parent.optimizer.kind != optimizer.kind:
        problem = (
            "nothing that it starts from has a learning rate"
            if parent is None
            else (f"it starts from stage {parent.name!r} with {parent.optimizer.kind}, whose rates are others")
        )
        raise UserError(f"{path}: {problem}; give optimizer.learning_rate instead")
    if step is None:
        raise UserError(
            f"{path}: stage {parent.name!r} may stop early, so its last rate is not known; give optimizer.learning_rate"
        )
    rates = _left_rates(parent, step, path)
    rates = {name: factor * rate for name, rate in rates.items()}
    for name, rate in rates.items():
        if name not in optimizer.model_fields_set:
            continue
        given = getattr(optimizer, name)
        if not math.isclose(given, rate, rel_tol=_SAME_RATE):
            raise UserError(
                f"{path} makes {name} {rate:g}, but it is given as {given:g}; leave one of the two out "
                f"(stages.{stage.name}.optimizer.relative_learning_rate=none)"
            )
        rates[name] = given  # of a resolved recipe; another machine may round otherwise
    return stage.model_copy(update={"optimizer": optimizer.model_copy(update=rates)})
