"""Run a study from Python, as `pathways-lite study run` and `report` do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pathways_lite.console import Console
from pathways_lite.errors import UserError
from pathways_lite.library.train import interruption
from pathways_lite.paths import local_path
from pathways_lite.studies.executor import LocalExecutor
from pathways_lite.studies.index import write_study_index
from pathways_lite.studies.plan import plan_study, resolve_study
from pathways_lite.studies.progress import StudyProgress
from pathways_lite.studies.report import Findings, gather_findings
from pathways_lite.studies.runner import Runner, report_failures
from pathways_lite.studies.study import Study, load_study

if TYPE_CHECKING:
    from pathways_lite.studies.plan import StudyPlan

__all__ = ["study"]


def study(
    study: Study | str | Path, out: str | Path | None = None, *, overrides: Sequence[str] = (), jobs: int = 1
) -> Findings:
    """Train what is left of a study, and compare its arms.

    Args:
      study: a study, or a Python file with a function `study()`.
      out: its directory; None: runs/NAME of the study.
      overrides: changes of every recipe, of a file alone.
      jobs: processes at a time, each with its own share of the cores.

    The result has `results` (the comparisons with the baseline, None where nothing can be compared), `runs` and `arms`.
    Raises UserError where a node failed, with the end of its output. Ctrl-C saves a checkpoint of every node at work.
    """
    file = None if isinstance(study, Study) else local_path(study)
    if isinstance(study, Study):
        if overrides:
            raise UserError("overrides are of a study's file; change the recipes of a study itself, by apply_overrides")
    else:
        study = load_study(study, overrides)
    path = Path("runs") / study.name if out is None else local_path(out)
    _train(plan_study(resolve_study(study), path), file, overrides, jobs)
    named = [study.name if file is None else str(file), *overrides, "--out", str(path)]
    return gather_findings(plan_study(resolve_study(study, path), path), named)


def _train(plan: StudyPlan, file: Path | None, overrides: Sequence[str], jobs: int) -> None:
    write_study_index(plan.study, plan.store, file, overrides)
    console = Console(stderr=True)
    steps = {identity: planned.timeline.total_steps for identity, planned in plan.nodes.items()}
    outcome = Runner(plan.store, LocalExecutor(jobs), StudyProgress(steps, console)).run()
    if outcome.signal_status:
        raise interruption(outcome.signal_status)
    if outcome.failed:
        lines: list[str] = []
        report_failures(plan.store, outcome, lines.append)
        raise UserError("\n".join(lines).strip())
