"""What `study` commands print of a study and its plan: nodes, time and FLOPs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

    from pathways_lite.studies.plan import StudyPlan
    from pathways_lite.studies.runner import Outcome
    from pathways_lite.studies.store import StudyStore
    from pathways_lite.studies.study import Study


def study_header(study: Study) -> Text:
    from rich.text import Text

    arms = ", ".join(f"{name} ({len(recipes)})" for name, recipes in study.arms.items())
    facts = f": {study.question}\narms: {arms}; baseline: {study.baseline}; {study.metric.name}"
    return Text.assemble((study.name, "bold"), facts)


def plan_rows(study_plan: StudyPlan) -> list[dict[str, Any]]:
    """Return a row for each node of the plan, as JSON."""
    return [
        {
            "node": planned.node.label,
            "identity": identity,
            "parent": planned.node.parent,
            "steps": planned.timeline.total_steps,
            "parameters": planned.timeline.active_parameters,
            "flops": planned.flops,
            "flops_left": planned.flops_left,
            "seconds_left": None if math.isnan(planned.seconds_left) else planned.seconds_left,
            "speed": planned.speed_source,
            "state": planned.state,
        }
        for identity, planned in study_plan.nodes.items()
    ]


def node_table(study_plan: StudyPlan) -> Any:
    from rich.table import Column

    from pathways_lite.console import Table
    from pathways_lite.tracking.formatting import duration, si

    # Never wrapped or cut, since `merge` and `evaluate` take nodes by their identity.
    unwrapped = (Column("node", no_wrap=True), Column("identity", no_wrap=True))
    table = Table(*unwrapped, "after", "steps", "parameters", "FLOPs", "state", "time left", box=None, pad_edge=False)
    for identity, planned in study_plan.nodes.items():
        timeline = planned.timeline
        is_known = planned.flops_left and not math.isnan(planned.seconds_left)
        time_left = duration(planned.seconds_left) if is_known else ""
        table.add_row(
            planned.node.label,
            identity,
            planned.node.parent or "",
            f"{timeline.total_steps:,}",
            si(timeline.active_parameters),
            si(planned.flops),
            planned.state,
            time_left,
        )
    return table


def plan_summary(study_plan: StudyPlan, jobs: int, startup: float = 0.0) -> str:
    """Return what is done, what is left and how long it takes; `startup`: seconds of a run before its first node."""
    from pathways_lite.errors import counted
    from pathways_lite.studies.study import node_chain
    from pathways_lite.tracking.formatting import duration, si

    nodes = study_plan.nodes
    total = sum(planned.flops for planned in nodes.values())
    left = sum(planned.flops_left for planned in nodes.values())
    without_sharing = sum(
        nodes[ancestor.identity].flops * len(planned.node.is_last)
        for identity, planned in nodes.items()
        for ancestor in node_chain(study_plan.store.nodes, identity)
    )
    saved = (
        f"; sharing saves {si(without_sharing - total, 'FLOPs')} of {si(without_sharing, 'FLOPs')}"
        if without_sharing > total
        else ""
    )
    done = sum(planned.state == "done" for planned in nodes.values())
    paces = ", ".join(sorted({planned.speed_source for planned in nodes.values() if planned.flops_left}))
    seconds = startup + study_plan.seconds_left(jobs)
    if not left:
        time = "nothing is left to train"
    elif math.isnan(seconds):
        option = f" --jobs {jobs}" if jobs > 1 else ""
        time = f"time is unknown before the first node is done; `pathways-lite study plan{option}` measures it"
    else:
        bound = "at least" if "at least" in paces else "about"
        time = f"{bound} {duration(seconds)} with --jobs {jobs}, speed {paces}"
    return (
        f"{counted(len(nodes), 'node')}, {done} done; {si(left, 'FLOPs')} of {si(total, 'FLOPs')} left{saved}; {time}"
    )


def run_ending(store: StudyStore, outcome: Outcome, seconds: float) -> list[str]:
    """Return what `study run` says last: what it trained, in how many seconds, and where the results are."""
    from pathways_lite.errors import counted
    from pathways_lite.tracking.formatting import duration

    done = sum(state == "done" for state in store.states().values())
    trained = f"{counted(len(outcome.trained), 'node')} trained in {duration(seconds)}" if outcome.trained else ""
    of_all = f"{done} of {counted(len(store.nodes), 'node')} done"
    lines = [f"{', '.join(filter(None, (trained, of_all)))}; results: {store.path}"]
    return [*lines, "The same command continues from here."] if outcome.exit_status else lines


def mesh_note(study_plan: StudyPlan) -> str:
    """Say which nodes that are left cannot be trained on this machine's CPUs; "" where there is no such node.

    Of accelerators nothing is said, as this process must not take them from the nodes: training says it.
    """
    from pathways_lite.errors import counted
    from pathways_lite.host_memory import runs_on_cpu_only
    from pathways_lite.training.stage_mesh import mesh_problem

    if not runs_on_cpu_only():
        return ""
    left = [planned.node for planned in study_plan.nodes.values() if planned.state != "done"]
    problems = {node.label: problem for node in left if (problem := mesh_problem(node.stage))}
    if not problems:
        return ""
    label, problem = next(iter(problems.items()))
    return f"{counted(len(problems), 'node')} will not train here, e.g. {label}: {problem}"


def cost_note(study_plan: StudyPlan) -> str:
    """Say where arms differ in FLOPs, those of a start are unknown, or runs have no curve; "" where none is so."""
    notes = (_budget_note, _unknown_cost_note, _single_evaluation_note)
    return " ".join(filter(None, (note(study_plan) for note in notes)))


def _single_evaluation_note(study_plan: StudyPlan) -> str:
    """Say which arms have a run that is evaluated once, so that they have no curve; "" where none has."""
    from pathways_lite.training.estimate import times_due
    from pathways_lite.training.stage import stage_timeline

    study = study_plan.study
    if study.metric.of != "held-out":
        return ""
    evaluations = {
        arm: min(
            sum(times_due(stage.evaluation.every, 0, stage_timeline(stage).total_steps) for stage in recipe.stages)
            for recipe in recipes
        )
        for arm, recipes in study.arms.items()
    }
    if not (single := [arm for arm, times in evaluations.items() if times == 1]):
        return ""
    return (
        f"Runs of {', '.join(single)} are evaluated once, at their end: they have no curve and no speedup. Set "
        "evaluation.every to fewer steps than a run has"
    )


def _unknown_cost_note(study_plan: StudyPlan) -> str:
    """Name the arms that start from a model whose cost is unknown; "" where none does."""
    from pathways_lite.studies.study import node_chain
    from pathways_lite.training.notes import unknown_costs

    study, nodes = study_plan.study, study_plan.nodes
    unknown = {identity: unknown_costs(planned.node.stage) for identity, planned in nodes.items()}
    models: dict[str, list[str]] = {}
    for identity, planned in nodes.items():
        before = [path for node in node_chain(study_plan.store.nodes, identity) for path in unknown[node.identity]]
        for label in planned.node.is_last if before else ():
            models.setdefault(study.arm_of[label], []).extend(before)
    if not models:
        return ""
    told = "; ".join(f"{arm} ({', '.join(dict.fromkeys(paths))})" for arm, paths in models.items())
    return (
        f"Cost unknown: {told}. These arms start from models that were trained elsewhere; their FLOPs are those spent "
        "here, and no speed-up in total FLOPs can be given against arms that do not."
    )


def _budget_note(study_plan: StudyPlan) -> str:
    """Say which arm's recipes take more FLOPs than the baseline's, or less, and what that means; "" where none does."""
    from pathways_lite.comparison.table import UNEQUAL_BUDGETS
    from pathways_lite.studies.study import node_chain

    study, nodes = study_plan.study, study_plan.nodes
    flops: dict[str, list[int]] = {arm: [] for arm in study.arms}
    for identity, planned in nodes.items():
        chain = sum(nodes[node.identity].flops for node in node_chain(study_plan.store.nodes, identity))
        for label in planned.node.is_last:
            flops[study.arm_of[label]].append(chain)
    smallest = min(map(min, flops.values()))
    ratios = {arm: max(values) / smallest for arm, values in flops.items()}
    if max(ratios.values()) <= UNEQUAL_BUDGETS:
        return ""
    told = ", ".join(f"{arm} {ratio:.2f}" for arm, ratio in ratios.items())
    return (
        f"Budgets differ, in multiples of the smallest: {told}. Arms are compared at equal FLOPs, where longer runs "
        "are not at the end of their schedules: if learning rates decay until the end of the budget, these are at a "
        f"disadvantage. To compare whole runs, give all arms one budget, e.g. '{smallest:.3g} FLOPs'"
    )
