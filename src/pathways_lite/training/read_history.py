"""What a run has read, over its stages and those of other runs that it comes from: which stage took which step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pathways_lite.checkpoints import step_of
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path
from pathways_lite.recipe import Continue, Grow, Merge, Restore
from pathways_lite.training.load import load_model
from pathways_lite.training.replay import Spike, StageReading, find_spikes, load_reading, load_readings, require_step


def readings_with_step(path: str | Path, step: int) -> list[StageReading]:
    """Load what the stages of the run at `path` that have taken a step have read, the last stage first.

    Where none has taken it yet, it is the last stage that will. Raises UserError where no stage has so many steps.
    """
    readings = load_readings(path)[::-1]
    if taken := [reading for reading in readings if step < reading.steps]:
        return taken
    if planned := [reading for reading in readings if step < reading.spec.timeline.total_steps]:
        return planned[:1]
    if len(readings) == 1:
        require_step(readings[0].spec, step)
    has = ", ".join(f"{r.stage.name!r} has 0 to {r.spec.timeline.total_steps - 1:,}" for r in readings[::-1])
    raise UserError(f"no stage of {path} has a step {step:,}: stage {has}")


def last_spike(path: str | Path, stage: str | None = None) -> tuple[StageReading, Spike]:
    """Return the last spike of the run at `path`, or of one stage of it, and what its stage has read.

    Where the guard saw none in any stage, it is the largest rise of the loss. Raises UserError where there is no log
    with steps.
    """
    found, problem = list[tuple[StageReading, Spike]](), None
    for reading in reversed(load_readings(path) if stage is None else [load_reading(path, stage)]):
        try:
            found.append((reading, find_spikes(reading)[-1]))
        except UserError as error:
            problem = problem or error
    if not found:
        assert problem is not None
        raise problem
    guarded = (pair for pair in found if not pair[1].is_rise)
    return next(guarded, None) or max(found, key=lambda pair: np.nan_to_num(pair[1].rise, nan=np.inf))


# ---- what led to a run ----


@dataclass
class ReadHistory:
    """What a run has read.

    readings: by stage, in the order in which they led to each other; a stage from which several parts start is there
        once, as far as the longest of them took it.
    missing: sentences about stages of other runs that are not there any more.
    """

    readings: list[StageReading] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, reading: StageReading) -> None:
        """Add a reading of a stage, or put it in the place of a shorter one."""
        for index, known in enumerate(self.readings):
            if _stage_directory(known) == _stage_directory(reading):
                if known.steps < reading.steps:
                    self.readings[index] = reading
                return
        self.readings.append(reading)


def load_history(path: str | Path) -> ReadHistory:
    """Load what the stages of a run with a checkpoint have read, and before them those that they start from.

    `path` may also be a stage or a checkpoint: then it is what led to it. Raises UserError where nothing is known.
    """
    history, seen = ReadHistory(), set[Path]()

    def visit(reading: StageReading) -> None:
        for place in _starts_from(reading):
            if place.resolve() in seen:
                continue
            seen.add(place.resolve())
            try:
                before = StageReading.of(load_model(place, examined=False))
            except UserError:
                history.missing.append(
                    f"stage {reading.stage.name!r} starts from {place}, which is not there any more: what led to it is "
                    "left out"
                )
                continue
            visit(before)
        if reading.stage.data.corpus:  # of an imported model nothing is known
            history.add(reading)

    for reading in load_readings(path):
        visit(reading)
    return history


def _starts_from(reading: StageReading) -> Iterator[Path]:
    """Yield the checkpoints, or directories of stages, that the reading's stage starts from."""
    start = reading.stage.start
    match start:
        case Restore(path=path):
            yield _existing(path, reading.directory)
        case Merge(checkpoints=ingredients):
            for ingredient in ingredients:
                yield _existing(ingredient.path, reading.directory)
        case Continue() | Grow() if reading.spec.index:
            yield _stage_directory(reading).parent / reading.spec.recipe.stages[reading.spec.index - 1].name


def _existing(path: str, directory: str | None) -> Path:
    """Return the place that a recipe names, from here or from where training was started."""
    place = local_path(path)
    from_there = Path(directory or "", place)
    return from_there if not place.exists() and from_there.exists() else place


def _stage_directory(reading: StageReading) -> Path:
    """Return the directory of the reading's stage in its run."""
    return reading.path if step_of(reading.path) is None else reading.path.parent.parent
