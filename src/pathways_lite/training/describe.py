"""Describe what training a recipe would take, before it is trained: `train --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pathways_lite.errors import counted
from pathways_lite.recipe import Continue, Grow, Recipe, Stage
from pathways_lite.tracking.formatting import si
from pathways_lite.training.begun import StageState
from pathways_lite.training.data_position import describe_data_position
from pathways_lite.training.notes import INHERITS_UNKNOWN, stage_notes, unknown_costs
from pathways_lite.training.stage import StageSpec, describe_lengths


def describe_stages(recipe: Recipe, states: Sequence[StageState]) -> list[dict[str, Any]]:
    """Return what training a resolved recipe would take, as JSON values, one dictionary for each stage.

    `states`: how far the stages are. `first_step` is where training continues, or where a `finished` stage ended; all
    amounts are those of whole stages. `learning_rates` are the resolved ones, by field. `epochs` by domain is None
    where another stage has yet to learn the mixture; `sparse_flops` and `final_active_parameters` are there for pruned
    stages, `seq_lens` for those with a sequence-length warm-up.
    """
    return [_describe_stage(StageSpec(recipe, index), states) for index in range(len(states))]


def _describe_stage(spec: StageSpec, states: Sequence[StageState]) -> dict[str, Any]:
    state = states[spec.index]
    stage, timeline, mixture = spec.stage, spec.timeline, spec.stage.data.mixture
    total = timeline.total_steps
    row = {
        "stage": stage.name,
        "start": stage.start.kind,
        "identity": spec.identity,
        "parameters": timeline.active_parameters,
        "steps": total,
        "tokens": timeline.tokens_before(total),
        "epochs": None if mixture is not None and mixture.untrained_stages else spec.epochs,
        "flops": timeline.flops_before(total),
        "first_step": state.step,
        "finished": state.finished,
        "learning_rates": _learning_rates(spec.stage),
        "data": _describe_data(spec, states),
        "notes": [*stage_notes(spec), *(f"{INHERITS_UNKNOWN} ({path})" for path in unknown_costs(stage))],
    }
    if timeline.lengths:
        names = ("step", "seq_len", "sequences", "flops_per_token")
        phases = [phase for phase in timeline.batch_phases if phase.step < total]
        row["seq_lens"] = [{name: getattr(phase, name) for name in names} for phase in phases]
    if timeline.phases:
        row["sparse_flops"] = timeline.sparse_flops_before(total)
        row["final_active_parameters"] = timeline.active_parameters_at(total)
    return row


def describe(recipe: Recipe, states: Sequence[StageState]) -> str:
    """Describe what training a resolved recipe would take, stage by stage; `states`: how far the stages are.

    That is its size, tokens, epochs, FLOPs and learning rate, how far it is, and where its data begins.
    """
    lines = []
    for index, state in enumerate(states):
        spec = StageSpec(recipe, index)
        row, sparse = _describe_stage(spec, states), ""
        if "sparse_flops" in row:
            active = si(row["final_active_parameters"], "parameters")
            sparse = f" ({si(row['sparse_flops'])} without zeros; {active} in the end)"
        rates = ", ".join(f"{name} {rate:.4g}" for name, rate in row["learning_rates"].items())
        lines.append(
            f"{row['stage']}: {si(row['parameters'], 'parameters')}, {counted(row['steps'], 'step')}, "
            f"{si(row['tokens'], 'tokens')} ({describe_epochs(spec)}), {si(row['flops'], 'FLOPs')}{sparse}, "
            f"{rates} ({spec.stage.optimizer.schedule.kind}), start: {row['start']}, identity {row['identity']}"
        )
        if progress := state.describe(row["steps"]):
            lines.append(f"{row['stage']}: {progress}")
        if not state.finished:
            lines.append(f"{row['stage']}: {row['data']}")
        if "seq_lens" in row:
            lines.append(f"{row['stage']}: {describe_lengths(spec.timeline)}")
        lines += [f"note: {row['stage']}: {note}" for note in row["notes"]]
    return "\n".join(lines)


def _describe_data(spec: StageSpec, states: Sequence[StageState]) -> str:
    state = states[spec.index]
    if state.position is not None and not state.finished:
        return f"data continues at sequence {state.position:,}"
    # Where the stage before is finished, it is known whether it stopped early.
    before = states[spec.index - 1] if isinstance(spec.stage.start, Continue | Grow) else None
    return describe_data_position(spec, before.position if before is not None and before.finished else None)


def _learning_rates(stage: Stage) -> dict[str, float]:
    """Return the rates of the stage's optimizer, by field: one, or one for each of its kinds of parameters."""
    names = [name for name in type(stage.optimizer).model_fields if name.endswith("learning_rate")]
    rates = {name: getattr(stage.optimizer, name) for name in names if name != "relative_learning_rate"}
    return {name: rate for name, rate in rates.items() if rate is not None}


def describe_epochs(spec: StageSpec) -> str:
    """Say how often the data is read; of a mixture, domain by domain."""
    if (mixture := spec.stage.data.mixture) is not None and mixture.untrained_stages:
        return f"stage {mixture.untrained_stages[0]!r} learns how often each domain is read"
    epochs = {name: f"{times:.{0 if times >= 100 else 2}f}" for name, times in spec.epochs.items()}
    if mixture is None:
        return f"{next(iter(epochs.values()))} epochs"
    return ", ".join(f"{name} will be seen {times} times" for name, times in epochs.items())
