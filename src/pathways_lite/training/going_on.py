"""Recipes that go on from a run: the same run trained longer, or another run that branches off one of its steps."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.methods.reweighting import temperature_at
from pathways_lite.recipe import (
    Constant,
    Continue,
    DataMixture,
    Flops,
    Fraction,
    Recipe,
    ResolvedBudget,
    Restore,
    Reweighting,
    Stage,
    Steps,
    Tokens,
    apply_overrides,
)
from pathways_lite.recipe.base import parse_amount
from pathways_lite.recipe.identity import stage_identity
from pathways_lite.recipe.mistakes import format_validation_error
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.load import final_step
from pathways_lite.training.resolve import with_corpora_found
from pathways_lite.training.resolve_amounts import held_optimizer
from pathways_lite.training.stage import stage_timeline

_MORE = re.compile(r"(.*_more)(?:_([0-9]+))?")


def extended(run: RunDirectory, amount: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of `run` with one more stage, which trains its last stage's model for `amount` longer.

    It keeps the optimizer's state, continues the data and holds the learning rate, unless `overrides` say otherwise.
    `amount` may be per cent of the last stage. Where the last stage is such an extension, not finished yet, it is that
    one. Raises UserError where the run is not finished, or where the stage's method cannot be continued.
    """
    recipe = run.recipe()
    *before, last = recipe.stages
    if run.stage(last.name).is_finished:
        step = final_step(run.stage(last.name), last)
        longer = _with_more(recipe, step, amount, overrides)
        changed = apply_overrides(longer, overrides)
        _require_unchanged(longer, changed, overrides)
        return changed
    if len(before) and _MORE.fullmatch(last.name):
        budget = before[-1].model_copy(update={"budget": _parse(amount, before[-1])}).budget
        if last.budget == budget:
            return apply_overrides(recipe, overrides)
    raise UserError(
        f"stage {last.name!r} of {run.path} is not finished; finish it first: pathways-lite train {run.path}"
    )


def branched(
    run: RunDirectory, step: int, stage_name: str | None, amount: str | None, overrides: Sequence[str] = ()
) -> Recipe:
    """Return the recipe of a new run that continues a stage of `run` from `step` on: by default the one that has it.

    It keeps the optimizer's state, reads the data that would have come next, and holds the learning rate of that step,
    unless `overrides` say otherwise. It trains for `amount`, by default for what is left of the stage. Raises UserError
    where there is no such checkpoint, or several stages have one of this step.
    """
    recipe = with_corpora_found(run.recipe(), run)
    index = _stage_with_checkpoint(recipe, run, stage_name, step)
    stage = recipe.stages[index]
    checkpoints = CheckpointManager(run.stage(stage.name).checkpoints)
    _require_continuable(stage)
    start = Restore(path=str(checkpoints.path(step)), optimizer="keep")
    budget = _parse(amount, stage) if amount is not None else _left_after(stage, step)
    fields = _held(stage, step, overrides, stage.name) | {"start": start, "budget": budget}
    alone = recipe.copy_unchecked(name=f"{recipe.name}_{step}", stages=(_changed(stage, fields),))
    return apply_overrides(_checked(alone), overrides)


# ---- one more stage ----


def _with_more(recipe: Recipe, step: int, amount: str, overrides: Sequence[str]) -> Recipe:
    last = recipe.stages[-1]
    _require_continuable(last)
    name = _next_name(last.name, {stage.name for stage in recipe.stages})
    fields = _held(last, step, overrides, name) | {"name": name, "start": Continue(optimizer="keep")}
    more = _changed(last, fields | {"budget": _parse(amount, last)})
    return _checked(recipe.copy_unchecked(stages=(*recipe.stages, more)))


def _require_unchanged(longer: Recipe, changed: Recipe, overrides: Sequence[str]) -> None:
    """Raise UserError where overrides of an extended recipe change what its finished stages have computed."""
    name = longer.stages[-1].name
    for index, stage in enumerate(longer.stages[:-1]):
        if stage_identity(changed, index) != stage_identity(longer, index):
            paths = [override.split(".") for override in overrides]
            wrong = [path for path in paths if path[0] == "stages" and fnmatch.fnmatchcase(stage.name, path[1])]
            right = " ".join(".".join(["stages", name, *path[2:]]) for path in wrong)
            raise UserError(
                f"stage {stage.name!r} is finished, and --extend appends a stage {name!r}; change that one: {right}"
            )


def _next_name(name: str, taken: set[str]) -> str:
    """Return `base_more` after `base`, `base_more_2` after that, and so on."""
    stem = match[1] if (match := _MORE.fullmatch(name)) else f"{name}_more"
    number, candidate = 1, stem
    while candidate in taken:
        number += 1
        candidate = f"{stem}_{number}"
    return candidate


def _require_continuable(stage: Stage) -> None:
    for field, value in (("pruning", stage.pruning), ("domain_weights", stage.domain_weights)):
        if value is not None:
            raise UserError(
                f"stage {stage.name!r} has {field}, which begins again in a new stage; write that stage yourself, "
                "with a start=Continue() or start=Restore(path=...)"
            )


def _held(stage: Stage, step: int, overrides: Sequence[str], name: str) -> dict[str, Any]:
    """Return the fields of a stage that continues `stage` after `step` steps as it was then."""
    optimizer = stage.optimizer.model_copy(update={"schedule": Constant()})
    if not any(_sets_rate(override, name) for override in overrides):
        optimizer = held_optimizer(optimizer, stage, step, name)
    sizes = _phases_after(stage.ramp.steps, step)
    fields: dict[str, Any] = {
        "optimizer": optimizer,
        "batch_size": sizes[0][1] if len(sizes) == 1 else {"steps": sizes},
    }
    data: dict[str, Any] = {}
    if (mixture := stage.data.mixture) is not None and len(mixture.phases) > 1:
        data["mixture"] = _phase_at(stage, mixture, step)
    if (warmup := stage.data.seq_len_warmup) is not None:
        lengths = _phases_after(warmup.steps, step)
        data["seq_len_warmup"] = None if len(lengths) == 1 else warmup.model_copy(update={"steps": lengths})
    if stage.reweighting is not None:
        fields["reweighting"] = _reweighting_at(stage, stage.reweighting, step)
    return fields | ({"data": stage.data.model_copy(update=data)} if data else {})


def _phases_after(phases: Sequence[tuple[int, int]], step: int) -> list[tuple[int, int]]:
    """Return (first step, value) phases as counted from `step`; the first is the one that `step` is in."""
    shifted = [(max(start - step, 0), value) for start, value in phases]
    return [
        pair for pair, following in itertools.zip_longest(shifted, shifted[1:]) if following is None or following[0]
    ]


def _reweighting_at(stage: Stage, reweighting: Reweighting, step: int) -> Reweighting:
    """Return the rule with what is left of its burn-in, at the temperature of `step`."""
    timeline = stage_timeline(stage)
    burn_in = timeline.steps_for(reweighting.burn_in)
    fields: dict[str, Any] = {"burn_in": Steps(n=max(0, burn_in - step))}
    if getattr(reweighting.rule, "final_temperature", None) is not None:
        held = temperature_at(reweighting, timeline, step)
        fields["rule"] = reweighting.rule.model_copy(update={"temperature": held, "final_temperature": None})
    return reweighting.model_copy(update=fields)


def _sets_rate(override: str, name: str) -> bool:
    """Return whether an override sets the learning rate of the stage `name`, or another optimizer."""
    path = override.partition("=")[0].strip()
    return path.endswith((".optimizer", ".optimizer.learning_rate", ".optimizer.relative_learning_rate"))


def _phase_at(stage: Stage, mixture: DataMixture, step: int) -> DataMixture:
    """Return the mixture of the phase that `step` is in, alone."""
    timeline = stage_timeline(stage)
    begun = [phase for phase in mixture.phases if timeline.steps_for(phase.start) <= step]
    phase = begun[-1].model_copy(update={"start": Fraction(n=0.0)})
    return mixture.model_copy(update={"phases": (phase,)})


def _left_after(stage: Stage, step: int) -> ResolvedBudget:
    """Return what is left of a stage's budget after `step` steps. Raises UserError where nothing is."""
    timeline, budget = stage_timeline(stage), stage.budget
    if step >= timeline.total_steps:
        raise UserError(f"nothing of stage {stage.name!r} is left after step {step}; say how long: --extend '10 %'")
    match budget:
        case Tokens(n=n):
            return Tokens(n=n - timeline.tokens_before(step))
        case Flops(n=n):
            return Flops(n=n - timeline.flops_before(step))
        case _:
            return Steps(n=timeline.total_steps - step)


def _parse(amount: str, stage: Stage) -> Any:
    """Return a budget as fields; per cent are of `stage`."""
    try:
        fields = parse_amount(amount)
    except ValueError as error:
        raise UserError(f"--extend {amount!r}: {error}") from error
    if isinstance(fields, dict) and fields.get("kind") == "fraction":
        whole = stage.budget
        if isinstance(whole, Flops):
            return {"kind": "flops", "n": fields["n"] * whole.n}
        return {"kind": whole.kind, "n": max(1, round(fields["n"] * whole.n))}
    return fields


def _changed(stage: Stage, fields: dict[str, Any]) -> Stage:
    try:
        return stage.model_copy(update=fields)
    except ValidationError as error:
        raise UserError(format_validation_error(error)) from error


def _checked(recipe: Recipe) -> Recipe:
    try:
        return Recipe.model_validate({name: getattr(recipe, name) for name in recipe.model_fields_set})
    except ValidationError as error:
        raise UserError(format_validation_error(error)) from error


def _stage_with_checkpoint(recipe: Recipe, run: RunDirectory, name: str | None, step: int) -> int:
    """Return the index of the stage that has a checkpoint of `step`; where `name` is given, it is that one."""
    names = [stage.name for stage in recipe.stages]
    if name is not None and name not in names:
        raise UserError(f"there is no stage {name!r} in {run.path}.{did_you_mean(name, names)}")
    steps = {stage: CheckpointManager(run.stage(stage).checkpoints).steps() for stage in names if name in (None, stage)}
    steps = {stage: there for stage, there in steps.items() if there}
    if not steps:
        raise UserError(f"{run.path} has no checkpoint to branch off")
    match [stage for stage, there in steps.items() if step in there]:
        case [stage]:
            return names.index(stage)
        case []:
            kept = recipe.stages[names.index(next(reversed(steps)))].saving
            there = "; ".join(f"{stage} has {', '.join(map(str, of_stage))}" for stage, of_stage in steps.items())
            raise UserError(
                f"{run.path} has no checkpoint of step {step}: {there} "
                f"(saving.keep={kept.keep} are kept, one every saving.every={kept.every} steps)"
            )
        case several:
            raise UserError(
                f"stages {' and '.join(several)} of {run.path} have a checkpoint of step {step}; "
                f"say which: --stage {several[0]}"
            )
