"""The results of tasks on a run's page."""

from __future__ import annotations

from pathways_lite.tracking.formatting import fixed, percent
from pathways_lite.tracking.page import section, table
from pathways_lite.tracking.run_data import RunData


def tasks_section(run: RunData) -> str:
    """Render a table of the last results of tasks, if the recipe names any."""
    stage = next((stage for stage in reversed(run.stages) if stage.tasks), None)
    if stage is None:
        return ""
    rows = [
        [
            name, f"{result.get('items', 0):,}", f"{result.get('shots', 0)}", percent(result.get("accuracy")),
            percent(result.get("accuracy_se")), percent(result.get("chance")),
            *(fixed(result.get(key), 3) for key in ("log_p", "loss", "p", "brier")),
        ]
        for name, result in stage.tasks.items()
    ]  # fmt: skip
    header = ["task", "items", "shots", "accuracy", "± s.e.", "chance", "ln p", "loss (nats/byte)", "p", "Brier"]
    caption = f"Stage {stage.name}. ln p, loss, p and Brier are of the right answer."
    return section("What it can do", table(header, rows, caption=caption))
