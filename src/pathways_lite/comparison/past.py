"""What led to a run in other runs: the stages whose checkpoint its first stage starts from, up to that step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pathways_lite.checkpoint_names import step_of
from pathways_lite.comparison.metric import Metric
from pathways_lite.errors import UserError
from pathways_lite.tracking.run_data import RunData, StageData, read_run


class Past(NamedTuple):
    """The stages of other runs that led to a run, the first one first, and a sentence about them ("": it has none)."""

    stages: list[StageData]
    sentence: str = ""


def read_past(run: RunData, metric: Metric) -> Past:
    """Read what led to a run that starts from a checkpoint of another one, where it was measured as the run is.

    A parent is known by its cost: what the run has inherited is what the checkpoint had spent.
    """
    if not run.stages or (run.stages[0].recipe.get("start") or {}).get("kind") != "restore":
        return Past([])
    first = run.stages[0]
    place, inherited = _place(first.recipe["start"].get("path", ""), run.directory), _inherited_flops(first)
    begins = f"the curve of {run.directory} begins where it starts from {place}"
    checkpoint = next((path for path in _checkpoints(place) if _spent_flops(path) == inherited), None)
    if checkpoint is None or inherited is None:
        return Past([], f"{begins}, as that checkpoint is not there, or is another one now.")
    try:
        parent, step = read_run(checkpoint.parents[2]), step_of(checkpoint) or 0
        names = [stage.name for stage in parent.stages]
        left = parent.stages[names.index(checkpoint.parents[1].name)]
    except (UserError, ValueError, IndexError):  # a checkpoint of convert, grow or merge, which is no run
        return Past([], f"{begins}, which no log leads to.")
    if metric.of == "held-out" and left.held_out_text != first.held_out_text:
        return Past([], f"{begins}, as that run was evaluated on other held-out text.")
    if metric.of == "held-out" and _overlap(left) != _overlap(first):
        return Past([], f"{begins}, as that run was evaluated with another evaluation.overlap.")
    before = read_past(parent, metric)
    stages = [*before.stages, *parent.stages[: names.index(left.name)], _cut(left, step)]
    sentence = f"{run.directory} continues from step {step:,} of {left.directory}: its curve includes what led to it."
    return Past(stages, f"{sentence} {before.sentence}".rstrip())


def _place(path: str, run: Path) -> Path:
    """Return the place that a recipe names: from here, or from a directory that the run is below."""
    places = [Path(path), *(folder / path for folder in run.absolute().parents)]
    return next((place for place in places if place.exists()), places[0])


def _inherited_flops(stage: StageData) -> int | None:
    """Return what a stage's initial parameters had cost; None where no row says it."""
    row = next((row for row in stage.rows if "total_flops" in row and "flops" in row), None)
    return None if row is None else row["total_flops"] - row["flops"]


def _checkpoints(place: Path) -> Iterator[Path]:
    """Yield the checkpoints at or below a checkpoint, stage or run directory, the newest of each stage first."""
    if step_of(place) is not None:
        yield place
    for pattern in ("checkpoints/step_*", "*/checkpoints/step_*"):
        yield from sorted(place.glob(pattern), reverse=True)


def _spent_flops(checkpoint: Path) -> int | None:
    """Return the FLOPs of everything that led to a checkpoint; None where its manifest does not say them."""
    try:
        meta = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))["meta"]
        spent: int = meta["ledger"]["total"]["flops"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return spent


def _overlap(stage: StageData) -> int:
    """Return the tokens of context with which a stage's held-out losses are measured."""
    return (stage.recipe.get("evaluation") or {}).get("overlap") or 0


def _cut(stage: StageData, step: int) -> StageData:
    """Return the stage as it was after `step` steps."""
    rows, timings = ([row for row in rows if row["step"] <= step] for rows in (stage.rows, stage.timings))
    seconds = next((row["train_seconds"] for row in reversed(timings) if "train_seconds" in row), 0.0)
    return replace(stage, rows=rows, timings=timings, ledger={"stage": {"seconds": {"train": seconds}}})
