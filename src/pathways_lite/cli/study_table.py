"""The nodes of a study's plan as a table and as JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathways_lite.studies.plan import StudyPlan


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
    """Return a table with a row for each node of the plan."""
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
